"""Weights between Hugging Face folders and Tunix's Gemma 3, strictly: every tensor mapped, every shape checked.

Our own mapping rather than Tunix's, because its loader fails obscurely on an unknown or missing key and it has
no exporter of full weights. Both directions read the same table, `slots`, so they cannot drift apart.

Layouts (N query heads, K key-value heads, H head_dim, D hidden_size, F intermediate_size, V vocab_size):

| Hugging Face                 | Tunix                                                     |
|------------------------------|-----------------------------------------------------------|
| embed_tokens (V, D)          | embedder.input_embedding (V, D)                           |
| q_proj (N·H, D)              | attn.q_einsum.w (N, D, H)                                 |
| k_proj, v_proj (K·H, D)      | attn.kv_einsum.w (2, K, D, H)                             |
| q, k, v where N = K          | attn.qkv_einsum.w (3, N, D, H)                            |
| o_proj (D, N·H)              | attn.attn_vec_einsum.w (N, H, D)                          |
| gate_proj, up_proj (F, D)    | mlp.gate_proj.kernel, mlp.up_proj.kernel (D, F)           |
| down_proj (D, F)             | mlp.down_proj.kernel (F, D)                               |
| norms (D) or (H)             | the same; both store scale − 1                            |
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from distill.gemma.config import FULL, SLIDING, GemmaConfig
from distill.gemma.folder import TOKENIZER_FILES, ModelFolder, TensorInfo, text_name
from filters.errors import UserError

if TYPE_CHECKING:
    from jax.sharding import Mesh
    from tunix.models.gemma3.model import Gemma3

ParamPath = tuple[str | int, ...]
Layout = Literal["same", "transposed", "heads_in", "heads_out"]

_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_MAX_SHARD_BYTES = 5_000_000_000


@dataclass(frozen=True, slots=True)
class Slot:
    """Where one Hugging Face tensor goes.

    Attributes:
        path: the parameter's path in the Tunix model.
        part: index on the parameter's first axis where several tensors are stacked there, else None.
        layout: how the two arrangements relate; see `to_ours` and `to_hf`.
        shape: shape of the Hugging Face tensor.
    """

    path: ParamPath
    part: int | None
    layout: Layout
    shape: tuple[int, ...]


def slots(config: GemmaConfig) -> dict[str, Slot]:
    """The whole mapping, keyed by Hugging Face name with the prefix "model."."""
    d, f, h = config.hidden_size, config.intermediate_size, config.head_dim
    n, k = config.num_attention_heads, config.num_key_value_heads
    fused = n == k
    q: tuple[str, int | None] = ("qkv_einsum", 0) if fused else ("q_einsum", None)
    kv, first = ("qkv_einsum", 1) if fused else ("kv_einsum", 0)
    table = {
        "model.embed_tokens.weight": Slot(
            ("embedder", "input_embedding"), None, "same", (config.vocab_size, d)
        ),
        "model.norm.weight": Slot(("final_norm", "scale"), None, "same", (d,)),
    }
    for i in range(config.num_hidden_layers):
        layer: ParamPath = ("layers", i)
        attn, mlp = (*layer, "attn"), (*layer, "mlp")
        entries = {
            "self_attn.q_proj": Slot((*attn, q[0], "w"), q[1], "heads_in", (n * h, d)),
            "self_attn.k_proj": Slot((*attn, kv, "w"), first, "heads_in", (k * h, d)),
            "self_attn.v_proj": Slot((*attn, kv, "w"), first + 1, "heads_in", (k * h, d)),
            "self_attn.o_proj": Slot((*attn, "attn_vec_einsum", "w"), None, "heads_out", (d, n * h)),
            "self_attn.q_norm": Slot((*attn, "_query_norm", "scale"), None, "same", (h,)),
            "self_attn.k_norm": Slot((*attn, "_key_norm", "scale"), None, "same", (h,)),
            "mlp.gate_proj": Slot((*mlp, "gate_proj", "kernel"), None, "transposed", (f, d)),
            "mlp.up_proj": Slot((*mlp, "up_proj", "kernel"), None, "transposed", (f, d)),
            "mlp.down_proj": Slot((*mlp, "down_proj", "kernel"), None, "transposed", (d, f)),
            "input_layernorm": Slot((*layer, "pre_attention_norm", "scale"), None, "same", (d,)),
            "post_attention_layernorm": Slot((*layer, "post_attention_norm", "scale"), None, "same", (d,)),
            "pre_feedforward_layernorm": Slot((*layer, "pre_ffw_norm", "scale"), None, "same", (d,)),
            "post_feedforward_layernorm": Slot((*layer, "post_ffw_norm", "scale"), None, "same", (d,)),
        }
        table.update({f"model.layers.{i}.{name}.weight": slot for name, slot in entries.items()})
    return table


def to_ours(array: np.ndarray[Any, Any], layout: Layout, head_dim: int) -> np.ndarray[Any, Any]:
    """A Hugging Face tensor in Tunix's arrangement (a view where possible)."""
    match layout:
        case "same":
            return array
        case "transposed":
            return array.T
        case "heads_in":  # (N·H, D) -> (N, D, H)
            return array.reshape(-1, head_dim, array.shape[1]).transpose(0, 2, 1)
        case "heads_out":  # (D, N·H) -> (N, H, D)
            return array.T.reshape(-1, head_dim, array.shape[0])


def to_hf(array: np.ndarray[Any, Any], layout: Layout) -> np.ndarray[Any, Any]:
    """The inverse of `to_ours`."""
    match layout:
        case "same":
            return array
        case "transposed":
            return array.T
        case "heads_in":  # (N, D, H) -> (N·H, D)
            return array.transpose(0, 2, 1).reshape(-1, array.shape[1])
        case "heads_out":  # (N, H, D) -> (D, N·H)
            return array.reshape(-1, array.shape[2]).T


# ------------------------------------------------------------------------------------------------ models


def tunix_config(config: GemmaConfig, dtype: str = "float32") -> Any:
    """Tunix's `ModelConfig` for a Gemma.

    Raises:
        UserError: `query_pre_attn_scalar` is neither head_dim nor hidden_size / heads, the two that Tunix has.
    """
    import jax.numpy as jnp
    from tunix.models.gemma3.model import ModelConfig, QueryPreAttentionNormalisation

    if config.query_pre_attn_scalar == config.head_dim:
        norm = QueryPreAttentionNormalisation.BY_ONE_OVER_SQRT_HEAD_DIM
    elif config.query_pre_attn_scalar == config.hidden_size // config.num_attention_heads:
        norm = QueryPreAttentionNormalisation.BY_ONE_OVER_SQRT_EMBED_DIM_DIV_NUM_HEADS
    else:
        raise UserError(
            f"config: query_pre_attn_scalar {config.query_pre_attn_scalar} is neither head_dim "
            f"({config.head_dim}) nor hidden_size / heads; the JAX model has no other scaling"
        )
    return ModelConfig(
        num_layers=config.num_hidden_layers,
        num_embed=config.vocab_size,
        embed_dim=config.hidden_size,
        hidden_dim=config.intermediate_size,
        num_heads=config.num_attention_heads,
        head_dim=config.head_dim,
        num_kv_heads=config.num_key_value_heads,
        sliding_window_size=config.sliding_window,
        local_base_frequency=config.rope_theta_sliding,
        global_base_frequency=config.rope_theta_full,
        global_scale_factor=config.rope_factor_full,
        query_pre_attn_norm=norm,
        param_dtype=jnp.dtype(dtype),
    )


def abstract_model(config: GemmaConfig, dtype: str = "float32") -> Gemma3:
    """The model without memory: every parameter a `jax.ShapeDtypeStruct`."""
    from flax import nnx
    from tunix.models.gemma3.model import AttentionType, Gemma3

    shape = tunix_config(config, dtype)
    model = nnx.eval_shape(lambda: Gemma3(shape, rngs=nnx.Rngs(0)))
    # Tunix cycles through Gemma 3's own order of layers; ours says which is which.
    for layer, kind in zip(model.layers, config.layer_types, strict=True):
        sliding = kind == SLIDING
        layer.attn.attn_type = AttentionType.LOCAL_SLIDING if sliding else AttentionType.GLOBAL
        layer.attn.rope_base_frequency = config.rope_theta_sliding if sliding else config.rope_theta_full
        layer.attn.rope_scale_factor = config.rope_factor_full if kind == FULL else 1.0
    return model


def model_from_arrays(
    config: GemmaConfig,
    array_of: Callable[[ParamPath, tuple[int, ...]], Any],
    *,
    dtype: str = "float32",
    mesh: Mesh | None = None,
) -> Gemma3:
    """Build a model from `array_of(path, shape)`, asked once for every parameter and put on the device at once.

    With a mesh (axes "fsdp" and "tp") each parameter is placed by Tunix's partition rules, so host memory
    holds one parameter at a time.
    """
    import jax
    import jax.numpy as jnp
    from flax import nnx
    from jax.sharding import NamedSharding, PartitionSpec

    graph, state = nnx.split(abstract_model(config, dtype))
    placed = []
    for path, variable in state.flat_state():
        array = np.asarray(array_of(path, variable.shape)).astype(jnp.dtype(dtype))
        if array.shape != variable.shape:
            raise ValueError(f"parameter {path}: shape {array.shape}, the model wants {variable.shape}")
        if mesh is None:
            placed.append((path, variable.replace(jnp.asarray(array))))
            continue
        # An axis that does not divide the parameter leaves it whole there; the optimiser follows what is noted.
        axes = variable.get_metadata().get("out_sharding") or ()
        axes = tuple(
            a if a and n % mesh.shape[a] == 0 else None for a, n in zip(axes, array.shape, strict=False)
        )
        value = jax.device_put(array, NamedSharding(mesh, PartitionSpec(*axes)))
        placed.append((path, variable.replace(value, out_sharding=axes)))
    model: Gemma3 = nnx.merge(graph, nnx.State.from_flat_path(placed))
    return model


def load_model(folder: ModelFolder, *, dtype: str = "float32", mesh: Mesh | None = None) -> Gemma3:
    """Load a folder's weights into Tunix's Gemma 3 in the given dtype ("float32" or "bfloat16").

    Raises:
        UserError: a tensor is unknown, missing, of another shape or of a dtype that is no float; names it.
    """
    table = slots(folder.config)
    found = _match(folder, table)
    by_path: dict[ParamPath, list[tuple[str, Slot]]] = {}
    for name, slot in table.items():
        by_path.setdefault(slot.path, []).append((name, slot))

    def array_of(path: ParamPath, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        parts = sorted(by_path[path], key=lambda entry: entry[1].part or 0)
        ours = [to_ours(_read(found[name]), slot.layout, folder.config.head_dim) for name, slot in parts]
        return ours[0] if parts[0][1].part is None else np.stack(ours)

    return model_from_arrays(folder.config, array_of, dtype=dtype, mesh=mesh)


def _match(folder: ModelFolder, table: Mapping[str, Slot]) -> dict[str, TensorInfo]:
    """The folder's text tensors by their name with the prefix "model.", checked against the table."""
    found: dict[str, TensorInfo] = {}
    for raw, info in folder.tensors.items():
        name = text_name(raw)
        if name is None:
            continue
        if name == "lm_head.weight":
            _check_tied_head(folder, info)
            continue
        if name not in table:
            raise UserError(f"{info.file}: unknown tensor {raw}; it is no part of this Gemma 3 configuration")
        if name in found:
            raise UserError(f"{info.file}: tensor {raw} is there twice, also as {found[name].name}")
        if info.shape != table[name].shape:
            raise UserError(
                f"{info.file}: tensor {raw} has shape {info.shape}, config.json makes it {table[name].shape}"
            )
        if info.dtype not in _DTYPES:
            raise UserError(
                f"{info.file}: tensor {raw} is {info.dtype}; only {', '.join(_DTYPES)} can be loaded"
            )
        found[name] = info
    if missing := [name for name in table if name not in found]:
        raise UserError(f"model folder {folder.path} lacks the tensor {missing[0]} ({len(missing)} missing)")
    return found


def _check_tied_head(folder: ModelFolder, head: TensorInfo) -> None:
    """Gemma ties its output to the embedding; a head of its own would silently be lost."""
    embedding = next(
        (t for n, t in folder.tensors.items() if text_name(n) == "model.embed_tokens.weight"), None
    )
    if (
        embedding is None
        or embedding.shape != head.shape
        or not np.array_equal(_read(embedding), _read(head))
    ):
        raise UserError(
            f"{head.file}: {head.name} differs from the embedding; an untied head is not supported"
        )


def _read(info: TensorInfo) -> np.ndarray[Any, Any]:
    """A tensor as a memory map of its file."""
    import ml_dtypes

    dtype = np.dtype(ml_dtypes.bfloat16) if info.dtype == "BF16" else np.dtype(_DTYPES[info.dtype])
    return np.memmap(info.file, dtype=dtype, mode="r", offset=info.start, shape=info.shape)


# ------------------------------------------------------------------------------------------------ saving


def save_model(
    model: Gemma3,
    config: GemmaConfig,
    out_dir: str | os.PathLike[str],
    *,
    tokenizer_from: str | os.PathLike[str],
    overwrite: bool = False,
    max_shard_bytes: int = _MAX_SHARD_BYTES,
) -> ModelFolder:
    """Write an HF folder: config, generation config, safetensors in the model's dtype, tokenizer files.

    The folder appears whole or not at all: it is written beside its place and renamed.

    Args:
        model: the Tunix model; its shapes must be `config`'s.
        tokenizer_from: folder whose tokenizer files are copied.
        overwrite: replace a folder that is there.
        max_shard_bytes: weights beyond it are written as shards with an index.

    Raises:
        UserError: `out_dir` is there and not empty, or `tokenizer_from` has no tokenizer.json.
    """
    target, source = Path(out_dir), Path(tokenizer_from)
    if not (source / "tokenizer.json").is_file():
        raise UserError(f"no tokenizer.json in {source}")
    if not overwrite and target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} is there already; choose another folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".{target.name}.tmp-{os.getpid()}"
    for leftover in (
        *target.parent.glob(f".{target.name}.tmp-*"),
        *target.parent.glob(f".{target.name}.old-*"),
    ):
        shutil.rmtree(leftover)  # of a process that was killed
    temporary.mkdir()
    try:
        dtype = _write_weights(model, config, temporary, max_shard_bytes)
        write_json(temporary / "config.json", config.with_dtype(dtype).to_hf())
        write_json(temporary / "generation_config.json", _generation_config(config))
        for name in TOKENIZER_FILES:
            if (source / name).is_file():
                shutil.copyfile(source / name, temporary / name)
        _publish(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return ModelFolder.open(target)


def hf_tensors(model: Gemma3, config: GemmaConfig) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """The model's weights under Hugging Face's names and layouts, one at a time.

    Raises:
        ValueError: the model's shapes are not those of `config`.
    """
    import jax
    from flax import nnx

    params = dict(nnx.state(model, nnx.Param).flat_state())
    table = slots(config)
    if unknown := params.keys() - {slot.path for slot in table.values()}:
        raise ValueError(f"the model has a parameter {sorted(unknown, key=str)[0]} that config does not")
    for name, slot in table.items():
        array = np.asarray(jax.device_get(params[slot.path].get_value()))
        tensor = to_hf(array if slot.part is None else array[slot.part], slot.layout)
        if tensor.shape != slot.shape:
            raise ValueError(f"{name}: the model gives shape {tensor.shape}, config {slot.shape}")
        yield name, np.ascontiguousarray(tensor)


def _write_weights(model: Gemma3, config: GemmaConfig, folder: Path, max_bytes: int) -> str:
    """Write the shards; returns the dtype's name. A single one is called model.safetensors and has no index."""
    from safetensors.numpy import save_file

    weight_map: dict[str, Path] = {}
    shard: dict[str, np.ndarray[Any, Any]] = {}
    files: list[Path] = []
    total, dtype = 0, "float32"

    def flush() -> None:
        file = folder / f"shard-{len(files) + 1}"
        save_file(shard, file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(shard, file))
        files.append(file)
        shard.clear()

    for name, tensor in hf_tensors(model, config):
        if shard and sum(t.nbytes for t in shard.values()) + tensor.nbytes > max_bytes:
            flush()
        shard[name] = tensor
        total += tensor.nbytes
        dtype = tensor.dtype.name
    flush()
    if len(files) == 1:
        files[0].rename(folder / "model.safetensors")
        return dtype
    names = {file: f"model-{i + 1:05d}-of-{len(files):05d}.safetensors" for i, file in enumerate(files)}
    for file, final in names.items():
        file.rename(folder / final)
    index = {
        "metadata": {"total_size": total},
        "weight_map": {n: names[f] for n, f in sorted(weight_map.items())},
    }
    write_json(folder / "model.safetensors.index.json", index)
    return dtype


def _generation_config(config: GemmaConfig) -> dict[str, Any]:
    return {
        "bos_token_id": config.bos_token_id,
        "eos_token_id": list(config.eos_token_ids),
        "pad_token_id": config.pad_token_id,
    }


def write_json(file: Path, value: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _publish(temporary: Path, target: Path) -> None:
    """Flush every file to the disk, then rename the folder into its place."""
    for file in temporary.iterdir():
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
    if target.exists():
        old = target.parent / f".{target.name}.old-{os.getpid()}"
        target.rename(old)
        temporary.rename(target)
        shutil.rmtree(old)
    else:
        temporary.rename(target)
    parent = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)
