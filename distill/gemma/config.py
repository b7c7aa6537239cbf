"""What a Gemma 3 or Gemma 2 text model is, read from and written to Hugging Face's `config.json`. No JAX here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from filters.errors import UserError

SLIDING = "sliding_attention"
FULL = "full_attention"

# Fields whose other values the JAX model cannot compute: it hard-wires these.
_FIXED: dict[str, tuple[Any, ...]] = {
    "hidden_activation": ("gelu_pytorch_tanh",),
    "rms_norm_eps": (1e-6,),
    "tie_word_embeddings": (True,),
    "attention_bias": (False, None),
    "use_bidirectional_attention": (False, None),
}
_FIXED_GEMMA3: dict[str, tuple[Any, ...]] = {
    **_FIXED,
    "final_logit_softcapping": (None,),
    "attn_logit_softcapping": (None,),
}

Family = Literal["gemma3", "gemma2"]
_PATTERN: dict[Family, int] = {"gemma3": 6, "gemma2": 2}


def default_layer_types(num_layers: int, pattern: int = 6) -> tuple[str, ...]:
    """Gemma's order of attention layers: every `pattern`-th is global, the others slide."""
    return tuple(FULL if (i + 1) % pattern == 0 else SLIDING for i in range(num_layers))


@dataclass(frozen=True, slots=True, kw_only=True)
class GemmaConfig:
    """A Gemma text model's shape. Names are those of Hugging Face's `Gemma3TextConfig` and `Gemma2Config`.

    Gemma 2 has no norms of queries and keys, one rotary embedding for all layers, and caps on scores and logits:
    cap · tanh(x / cap).

    Attributes:
        family: "gemma3" or "gemma2".
        vocab_size: rows of the embedding; may exceed the number of tokens (padding rows).
        hidden_size, intermediate_size, num_hidden_layers: widths and depth.
        num_attention_heads, num_key_value_heads, head_dim: attention's shape.
        sliding_window: tokens a sliding layer sees, itself included.
        layer_types: one of "sliding_attention", "full_attention" for each layer.
        rope_theta_sliding, rope_theta_full: base frequencies of the rotary embedding.
        rope_factor_full: linear scaling of positions in the global layers (8 for 4B and larger).
        query_pre_attn_scalar: queries are scaled by its inverse square root.
        max_position_embeddings: longest context the model was made for, in tokens.
        bos_token_id, eos_token_ids, pad_token_id: control tokens. `eos_token_ids[0]` is the end of a
            text; instruction-tuned models also list the end of a turn.
        attn_logit_softcapping, final_logit_softcapping: Gemma 2's caps; None for none.
        dtype: dtype named in the config, of the weights on disk.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    sliding_window: int
    layer_types: tuple[str, ...] = ()
    rope_theta_sliding: float = 10_000.0
    rope_theta_full: float = 1_000_000.0
    rope_factor_full: float = 1.0
    query_pre_attn_scalar: int = 256
    max_position_embeddings: int = 32_768
    bos_token_id: int = 2
    eos_token_ids: tuple[int, ...] = (1,)
    pad_token_id: int = 0
    dtype: str = "float32"
    family: Family = "gemma3"
    attn_logit_softcapping: float | None = None
    final_logit_softcapping: float | None = None

    def __post_init__(self) -> None:
        if not self.layer_types:
            object.__setattr__(self, "layer_types", self.usual_layer_types)
        if len(self.layer_types) != self.num_hidden_layers:
            raise UserError(
                f"config: layer_types names {len(self.layer_types)} layers, num_hidden_layers is "
                f"{self.num_hidden_layers}"
            )
        unknown = set(self.layer_types) - {SLIDING, FULL}
        if unknown:
            raise UserError(f"config: unknown layer type {sorted(unknown)[0]!r}; known: {SLIDING}, {FULL}")
        if self.num_attention_heads % self.num_key_value_heads:
            raise UserError(
                f"config: {self.num_attention_heads} attention heads cannot share "
                f"{self.num_key_value_heads} key-value heads evenly"
            )
        if self.head_dim % 2:
            raise UserError(f"config: head_dim must be even for rotary embeddings, got {self.head_dim}")

    @property
    def usual_layer_types(self) -> tuple[str, ...]:
        """The family's order of layers: Gemma 3 has every sixth global, Gemma 2 every second."""
        return default_layer_types(self.num_hidden_layers, _PATTERN[self.family])

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any], where: str = "config.json") -> GemmaConfig:
        """Read the dictionary of a `config.json`, of a text model or of a multimodal one's text part.

        Raises:
            UserError: another model type, a missing field, or a value the JAX model cannot compute; names
                `where` and the field.
        """
        model_type = raw.get("model_type")
        if model_type == "gemma3" and isinstance(raw.get("text_config"), Mapping):
            outer = {k: raw[k] for k in ("eos_token_id", "bos_token_id", "pad_token_id", "dtype") if k in raw}
            return cls._from_text(_SIZES_4B_DEFAULTS | {**raw["text_config"], **outer}, where)
        if model_type == "gemma2":
            return cls._from_text(raw, where, "gemma2")
        if model_type != "gemma3_text":
            raise UserError(
                f"{where}: model_type is {model_type!r}; this needs a Gemma 3 ('gemma3_text' or 'gemma3') or a Gemma 2 "
                "('gemma2')"
            )
        return cls._from_text(raw, where)

    @classmethod
    def _from_text(cls, raw: Mapping[str, Any], where: str, family: Family = "gemma3") -> GemmaConfig:
        for name, allowed in (_FIXED if family == "gemma2" else _FIXED_GEMMA3).items():
            if name in raw and raw[name] not in allowed:
                raise UserError(f"{where}: {name} = {raw[name]!r} is not supported, only {allowed[0]!r}")
        layers = _integer(raw, "num_hidden_layers", where)
        listed = raw.get("layer_types")
        pattern = raw.get("sliding_window_pattern") or raw.get("_sliding_window_pattern") or _PATTERN[family]
        theta_sliding, theta_full, factor = (_rope_gemma2 if family == "gemma2" else _rope)(raw, where)
        eos = raw.get("eos_token_id", 1)
        caps = {name: _cap(raw, name, where) for name in _GEMMA2_CAPS} if family == "gemma2" else {}
        return cls(
            family=family,
            attn_logit_softcapping=caps.get("attn_logit_softcapping"),
            final_logit_softcapping=caps.get("final_logit_softcapping"),
            **{name: _integer(raw, name, where) for name in _SIZES},
            num_hidden_layers=layers,
            layer_types=tuple(listed) if listed else default_layer_types(layers, pattern),
            rope_theta_sliding=theta_sliding,
            rope_theta_full=theta_full,
            rope_factor_full=factor,
            query_pre_attn_scalar=int(raw.get("query_pre_attn_scalar", 256)),
            max_position_embeddings=int(
                raw.get("max_position_embeddings", 8192 if family == "gemma2" else 131_072)
            ),
            bos_token_id=int(raw.get("bos_token_id", 2)),
            eos_token_ids=tuple(eos) if isinstance(eos, list | tuple) else (int(eos),),
            pad_token_id=int(raw.get("pad_token_id", 0)),
            dtype=str(raw.get("dtype") or raw.get("torch_dtype") or "float32"),
        )

    def to_hf(self) -> dict[str, Any]:
        """The dictionary of a `config.json` that transformers 5 and `from_hf` read; sorted by key."""
        gemma2 = self.family == "gemma2"
        full: dict[str, Any] = {"rope_type": "default", "rope_theta": self.rope_theta_full}
        if self.rope_factor_full != 1.0:
            full = {
                "rope_type": "linear",
                "factor": self.rope_factor_full,
                "rope_theta": self.rope_theta_full,
            }
        sizes = {name: getattr(self, name) for name in (*_SIZES, "num_hidden_layers")}
        rest = {
            "architectures": ["Gemma2ForCausalLM" if gemma2 else "Gemma3ForCausalLM"],
            "model_type": "gemma2" if gemma2 else "gemma3_text",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "attn_logit_softcapping": self.attn_logit_softcapping,
            "final_logit_softcapping": self.final_logit_softcapping,
            "hidden_activation": "gelu_pytorch_tanh",
            "initializer_range": 0.02,
            "layer_types": list(self.layer_types),
            "max_position_embeddings": self.max_position_embeddings,
            "query_pre_attn_scalar": self.query_pre_attn_scalar,
            "rms_norm_eps": 1e-6,
            "rope_parameters": full
            if gemma2
            else {SLIDING: {"rope_type": "default", "rope_theta": self.rope_theta_sliding}, FULL: full},
            "tie_word_embeddings": True,
            "use_cache": True,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": self.eos_token_ids[0]
            if len(self.eos_token_ids) == 1
            else list(self.eos_token_ids),
            "pad_token_id": self.pad_token_id,
            "dtype": self.dtype,
            # Whose layout this is. Without it transformers takes the tokenizer for one of Mistral's that needs mending.
            "transformers_version": "5.0.0",
        }
        return dict(sorted({**sizes, **rest}.items()))

    def with_dtype(self, dtype: str) -> GemmaConfig:
        return replace(self, dtype=dtype)


_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "sliding_window",
)

_GEMMA2_CAPS = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
"""By the defaults of `Gemma2Config`."""

# A multimodal config.json leaves out what equals the defaults of `Gemma3TextConfig`; these are theirs.
_SIZES_4B_DEFAULTS: dict[str, Any] = {
    "vocab_size": 262_208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "sliding_window": 4096,
}


def _integer(raw: Mapping[str, Any], name: str, where: str) -> int:
    value = raw.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"{where}: {name} must be a positive integer, got {value!r}")
    return value


def _rope(raw: Mapping[str, Any], where: str) -> tuple[float, float, float]:
    """(base frequency of sliding layers, of global layers, linear factor of global layers).

    transformers 5 writes `rope_parameters` by layer type; version 4 wrote `rope_theta`,
    `rope_local_base_freq` and `rope_scaling`.
    """
    by_type = raw.get("rope_parameters") or {}
    sliding, full = dict(by_type.get(SLIDING) or {}), dict(by_type.get(FULL) or {})
    full = {**full, **(raw.get("rope_scaling") or {})}
    for layer_type, part in ((SLIDING, sliding), (FULL, full)):
        kind = part.get("rope_type", part.get("type", "default"))
        supported = ("default", "linear") if layer_type == FULL else ("default",)
        if kind not in supported:
            raise UserError(f"{where}: rope_type {kind!r} of {layer_type} is not supported, only {supported}")
    theta_sliding = sliding.get("rope_theta", raw.get("rope_local_base_freq", 10_000.0))
    theta_full = full.get("rope_theta", raw.get("rope_theta", 1_000_000.0))
    return float(theta_sliding), float(theta_full), float(full.get("factor", 1.0))


def _rope_gemma2(raw: Mapping[str, Any], where: str) -> tuple[float, float, float]:
    """As `_rope`: Gemma 2 has one base frequency and no scaling."""
    part = raw.get("rope_parameters") or {}
    if part.get("rope_type", "default") != "default" or raw.get("rope_scaling"):
        raise UserError(f"{where}: a Gemma 2 with scaled rotary embeddings is not supported")
    theta = float(part.get("rope_theta", raw.get("rope_theta", 10_000.0)))
    return theta, theta, 1.0


def _cap(raw: Mapping[str, Any], name: str, where: str) -> float | None:
    value = raw.get(name, _GEMMA2_CAPS[name])
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise UserError(f"{where}: {name} must be a number above 0 or null, got {value!r}")
    return float(value)
