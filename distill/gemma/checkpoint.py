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

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from distill.gemma.config import FULL, SLIDING, GemmaConfig
from distill.gemma.folder import ModelFolder, TensorInfo, text_name
from distill.gemma.mesh import fetch, put
from distill.gemma.saving import MAX_SHARD_BYTES, copy_tokenizer, write_folder
from filters.errors import UserError

if TYPE_CHECKING:
    from jax.sharding import Mesh
    from tunix.models.gemma3.model import Gemma3

ParamPath = tuple[str | int, ...]
Layout = Literal["same", "transposed", "heads_in", "heads_out"]

_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


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
            "mlp.gate_proj": Slot((*mlp, "gate_proj", "kernel"), None, "transposed", (f, d)),
            "mlp.up_proj": Slot((*mlp, "up_proj", "kernel"), None, "transposed", (f, d)),
            "mlp.down_proj": Slot((*mlp, "down_proj", "kernel"), None, "transposed", (d, f)),
            "input_layernorm": Slot((*layer, "pre_attention_norm", "scale"), None, "same", (d,)),
            "post_attention_layernorm": Slot((*layer, "post_attention_norm", "scale"), None, "same", (d,)),
            "pre_feedforward_layernorm": Slot((*layer, "pre_ffw_norm", "scale"), None, "same", (d,)),
            "post_feedforward_layernorm": Slot((*layer, "post_ffw_norm", "scale"), None, "same", (d,)),
        }
        if config.family == "gemma3":
            entries["self_attn.q_norm"] = Slot((*attn, "_query_norm", "scale"), None, "same", (h,))
            entries["self_attn.k_norm"] = Slot((*attn, "_key_norm", "scale"), None, "same", (h,))
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
    """The model without memory: every parameter a `jax.ShapeDtypeStruct`.

    A Gemma 2 is Tunix's Gemma 3 without norms of queries and keys. What else it has, our passes read from the model:
    `attn.softcap` of a layer, `final_softcap` of the whole. Tunix's own pass knows neither.
    """
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
        if config.family == "gemma2":
            del layer.attn._query_norm, layer.attn._key_norm
            layer.attn.softcap = config.attn_logit_softcapping
    if config.family == "gemma2":
        model.final_softcap = config.final_logit_softcapping
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
        value = put(array, NamedSharding(mesh, PartitionSpec(*axes)))
        placed.append((path, variable.replace(value, out_sharding=axes)))
    model: Gemma3 = nnx.merge(graph, nnx.State.from_flat_path(placed))
    return model


def load_model(folder: ModelFolder, *, dtype: str = "float32", mesh: Mesh | None = None) -> Gemma3:
    """Load a folder's weights into Tunix's Gemma 3 in the given dtype ("float32" or "bfloat16").

    Raises:
        UserError: as `text_tensors`.
    """
    table, found = slots(folder.config), text_tensors(folder)
    by_path: dict[ParamPath, list[tuple[str, Slot]]] = {}
    for name, slot in table.items():
        by_path.setdefault(slot.path, []).append((name, slot))

    def array_of(path: ParamPath, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        parts = sorted(by_path[path], key=lambda entry: entry[1].part or 0)
        ours = [
            to_ours(read_tensor(found[name]), slot.layout, folder.config.head_dim) for name, slot in parts
        ]
        return ours[0] if parts[0][1].part is None else np.stack(ours)

    return model_from_arrays(folder.config, array_of, dtype=dtype, mesh=mesh)


def text_tensors(folder: ModelFolder) -> dict[str, TensorInfo]:
    """The folder's text tensors by their name with the prefix "model.", checked against `slots`.

    Raises:
        UserError: a tensor is unknown, missing, of another shape or of a dtype that is no float; names it.
    """
    table = slots(folder.config)
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
        or not np.array_equal(read_tensor(embedding), read_tensor(head))
    ):
        raise UserError(
            f"{head.file}: {head.name} differs from the embedding; an untied head is not supported"
        )


def read_tensor(info: TensorInfo) -> np.ndarray[Any, Any]:
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
    chat_template: str | None = None,
    overwrite: bool = False,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> ModelFolder:
    """Write an HF folder: config, generation config, safetensors in the model's dtype, tokenizer files.

    Args:
        model: the Tunix model; its shapes must be `config`'s.
        tokenizer_from: folder whose tokenizer files are copied.
        chat_template: Jinja that takes the place of that folder's.
        overwrite, max_shard_bytes: see `distill.gemma.saving.write_folder`.

    Raises:
        UserError: `out_dir` is there and not empty, or `tokenizer_from` has no tokenizer.json.
    """
    return write_folder(
        out_dir,
        config,
        hf_tensors(model, config),
        copy_tokenizer(tokenizer_from, chat_template),
        overwrite=overwrite,
        max_shard_bytes=max_shard_bytes,
    )


def hf_tensors(model: Gemma3, config: GemmaConfig) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """The model's weights under Hugging Face's names and layouts, one at a time.

    Raises:
        ValueError: the model's shapes are not those of `config`.
    """
    from flax import nnx

    params = dict(nnx.state(model, nnx.Param).flat_state())
    table = slots(config)
    if unknown := params.keys() - {slot.path for slot in table.values()}:
        raise ValueError(f"the model has a parameter {sorted(unknown, key=str)[0]} that config does not")
    for name, slot in table.items():
        array = fetch(params[slot.path].get_value())
        tensor = to_hf(array if slot.part is None else array[slot.part], slot.layout)
        if tensor.shape != slot.shape:
            raise ValueError(f"{name}: the model gives shape {tensor.shape}, config {slot.shape}")
        yield name, np.ascontiguousarray(tensor)
