"""Settings of low-rank adapters. No JAX here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from filters.errors import UserError

if TYPE_CHECKING:
    from distill.gemma.config import GemmaConfig

TARGETS: Mapping[str, str] = {
    "q_proj": "q_einsum",
    "k_proj": "kv_einsum",
    "v_proj": "kv_einsum",
    "o_proj": "attn_vec_einsum",
    "gate_proj": "gate_proj",
    "up_proj": "up_proj",
    "down_proj": "down_proj",
}
"""Hugging Face's names of matrices, and the modules of Tunix's that hold them: keys and values lie in one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraConfig:
    """Low-rank adapters; see `distill.lora`.

    Attributes:
        rank: columns of A, rows of B.
        alpha: the product of the two is multiplied by alpha / rank.
        targets: matrices that get adapters, by Hugging Face's names. k_proj and v_proj go together.
        weights: how the matrices beside them are kept: "same", as they are; "nf4" or "int8": quantised.
        tile: inputs that share a scale, where they are quantised; of a matrix that it does not divide, their greatest
            common divisor, which must be 8 at least.
    """

    rank: int = 16
    alpha: float = 32.0
    targets: tuple[str, ...] = tuple(TARGETS)
    weights: Literal["same", "nf4", "int8"] = "same"
    tile: int = 64

    def __post_init__(self) -> None:
        if self.rank < 1 or self.tile < 1 or not (self.alpha > 0 and math.isfinite(self.alpha)):
            raise UserError(
                f"lora needs rank, alpha and tile above 0, got {self.rank}, {self.alpha}, {self.tile}"
            )
        if unknown := sorted(set(self.targets) - TARGETS.keys()):
            raise UserError(f"lora.targets: {unknown[0]!r} is none of {', '.join(TARGETS)}")
        if not self.targets:
            raise UserError("lora.targets is empty; leave lora out to train every weight")
        if ("k_proj" in self.targets) != ("v_proj" in self.targets):
            raise UserError("lora.targets: k_proj and v_proj lie in one array here; give both or neither")
        if self.weights not in ("same", "nf4", "int8"):
            raise UserError(f"lora.weights must be same, nf4 or int8, got {self.weights!r}")

    def adapted(self, config: GemmaConfig) -> dict[str, tuple[int, int]]:
        """(outputs, inputs) of every matrix of a model that gets adapters, by Hugging Face's name."""
        from distill.gemma.checkpoint import slots

        return {
            name: (slot.shape[0], slot.shape[1])
            for name, slot in slots(config).items()
            if len(slot.shape) == 2 and name.split(".")[-2] in self.targets
        }

    def parameters(self, config: GemmaConfig) -> int:
        """Numbers that are trained."""
        return self.rank * sum(outputs + inputs for outputs, inputs in self.adapted(config).values())

    def frozen_bytes(self, config: GemmaConfig, parameters: int, unit: int) -> int:
        """Bytes of the weights beside the adapters: `unit` of each, but for matrices that are quantised.

        A quantised matrix has a float32 scale for `tile` of its numbers, or for the part of it that divides its inputs.
        """
        if self.weights == "same":
            return unit * parameters
        bits = {"nf4": 4, "int8": 8}[self.weights]
        found = unit * parameters
        for name, (outputs, inputs) in self.adapted(config).items():
            numbers = outputs * inputs
            along = config.head_dim if "o_proj" in name else inputs  # the axis that is cut
            found += numbers * bits // 8 + 4 * numbers // math.gcd(self.tile, along) - unit * numbers
        return found

    def to_peft(self, base: str, revision: str | None = None, *, within: str = "") -> dict[str, Any]:
        """The dictionary of PEFT's `adapter_config.json`.

        Args:
            base, revision: a Hub id, or a folder.
            within: the module whose matrices are meant, where the base has others of the same names.
        """
        names = sorted(self.targets)
        return {
            "base_model_name_or_path": base,
            "revision": revision,
            "bias": "none",
            "fan_in_fan_out": False,
            "inference_mode": True,
            "init_lora_weights": True,
            "lora_alpha": self.alpha,
            "lora_dropout": 0.0,
            "peft_type": "LORA",
            "r": self.rank,
            "target_modules": rf".*\b{within}\..*\.({'|'.join(names)})" if within else names,
            "task_type": "CAUSAL_LM",
        }
