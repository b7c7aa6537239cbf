"""What a stage of reinforcement learning will take: samples, tokens, bytes of each device, hours. Needs no JAX itself.

Bytes come from compiling the stage's update and decoding ahead of time, in a process of its own with as many CPU
devices as the mesh has (`factory.teacher.compiling`). The whole model is compiled: memory does not grow evenly with
layers, and lines through shallow models were off by half and more (docs/tpu.md). XLA for a CPU holds bfloat16 operands
in float32 as well and forms no reduce-scatter: its temporary bytes are an upper estimate for a chip.

Hours are upper bounds on the tokens (every sample at its longest), at an assumed share of what a chip can do
(`factory.teacher.chips`). Formulas, with N parameters, l layers, A = heads · width of a head:

    update    (6N + 2N each time that layers are computed again + 2N for each other set of log-probabilities
               + 12 · l · A · row) FLOPs a cell / (devices · FLOP/s · 0.3)        Kaplan et al., arXiv 2001.08361, 2.1
               of whole rows: one that holds a sample is computed to its end
    decoding  (weights + cache + 6 passes over float32 logits) bytes of a chip a token / (bandwidth · 0.6)
"""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import dataclass
from typing import Literal

from distill.gemma.config import SLIDING, GemmaConfig
from distill.gemma.sizes import ModelShape, model_shape
from factory import compiled as ahead
from factory.teacher.chips import CHIPS, READING, UTILISATION, Chip
from factory.teacher.settings import Mesh, Rl

BYTES = {"float32": 4, "bfloat16": 2}
"""Of a number."""

_LOGIT_PASSES = 6  # softmax for the log-probability, and the cumulative sums of the draw

PASSES = {"none": 6, "layer": 8}
"""FLOPs a parameter and cell of forward and backward pass, by `remat`."""

How = Literal["compiled", "estimated"]


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of one device.

    Attributes:
        weights, optimiser, reference: what lies there all the time; exact.
        update: what the optimiser step takes beside it, gradients and activations included.
        rollout: what sampling takes beside it: its copy of the weights, the cache, temporaries.
        how: where `update` and `rollout` come from.
        scorers: weights of the models that the rewards ask. They lie there all the time, whole, on one device.
        scoring: what the largest of them takes beside it while it scores; they are asked one after the other.
    """

    weights: int
    optimiser: int
    reference: int
    update: int
    rollout: int
    how: How
    scorers: int = 0
    scoring: int = 0

    @property
    def state(self) -> int:
        return self.weights + self.optimiser + self.reference + self.scorers

    @property
    def peak(self) -> int:
        return self.state + max(self.update, self.rollout, self.scoring)


@dataclass(frozen=True, slots=True)
class Hours:
    """Upper bounds, in hours."""

    rollout: float
    update: float

    @property
    def total(self) -> float:
        return self.rollout + self.update


@dataclass(frozen=True, slots=True)
class Forecast:
    """Work in words, and the bytes of each device and the hours it takes; `hours` is None where no chip is named."""

    work: str
    memory: Memory
    hours: Hours | None


def forecast(spec: Rl, model: str) -> Forecast:
    """Upper bounds of training: every sample at its longest, every round of dynamic sampling drawn; no validation.

    Raises:
        UserError: the model's shape is not known; the stage cannot be compiled.
    """
    shape = model_shape(model)
    tokens = sum(spec.prompts * spec.samples * spec.limit(step) for step in range(1, spec.steps + 1))
    drawn = spec.steps * spec.prompts * spec.samples
    rounds = 1 if spec.dynamic_sampling is None else spec.dynamic_sampling.max_rounds
    more = f" ({drawn * rounds:,} with all rounds of dynamic sampling)" if rounds > 1 else ""
    work = f"{spec.steps:,} steps, {drawn:,} samples{more}, {tokens * rounds:,} tokens at most"
    chip = None if spec.mesh.chip is None else CHIPS[spec.mesh.chip]
    return Forecast(work, memory_of(spec, shape), None if chip is None else hours_of(spec, shape, chip))


# ------------------------------------------------------------------------------------------------ memory


def memory_of(spec: Rl, shape: ModelShape) -> Memory:
    """Bytes of one device: compiled where JAX is installed, else by a formula.

    Raises:
        UserError: the stage cannot be compiled.
    """
    if not ahead.can_compile():
        return _estimated(spec, shape)
    asked = {"spec": json.loads(_what_decides(spec)), "config": shape.config.to_hf()}
    found = ahead.compiled("factory.teacher.compiling", json.dumps(asked), spec.mesh.devices)
    return _memory(found, "compiled")


def _what_decides(spec: Rl) -> str:
    """Settings as JSON, with those that change no byte set alike, so that stages share a compilation."""
    alike = {"temperature": 1.0, "template": "r1-zero", "seed": 0, "clip_low": 0.2, "clip_high": 0.2}
    plain = spec.model_dump(mode="json", exclude={"rewards", "validation", "dynamic_sampling"})
    known = {key: value for key, value in plain.items() if key in Rl.model_fields}
    # Steps shape nothing either, but the steps from which completions are longer must lie within them.
    return json.dumps({**known, **alike, "kl": 0.001 if spec.kl else 0.0}, sort_keys=True)


def _memory(parts: dict[str, dict[str, int]], how: How) -> Memory:
    state, update, decode = parts["state"], parts["update"], parts["decode"]
    held = state["weights"] + state["optimiser"]  # arguments of the update, counted once
    return Memory(
        **state,
        update=max(0, update["arguments"] - held)
        + update["outputs"]
        - update["shared"]
        + update["temporary"],
        rollout=decode["arguments"] + decode["outputs"] - decode["shared"] + decode["temporary"],
        how=how,
    )


def _estimated(spec: Rl, shape: ModelShape) -> Memory:
    """A formula for where nothing can be compiled: gradients twice, activations of every layer, all logits."""
    config, unit, devices = shape.config, BYTES[spec.dtype], spec.mesh.devices
    weights = shape.parameters * unit // devices
    length = spec.row_length or spec.longest
    cells = spec.rows * length
    layer = 12 * config.hidden_size + 3 * config.intermediate_size
    scores = config.num_attention_heads * length
    activations = cells * (4 * 3 * config.vocab_size + unit * config.num_hidden_layers * (layer + 2 * scores))
    rollout = _decode_bytes(spec, shape)
    return Memory(
        weights,
        2 * weights,
        weights if spec.kl else 0,
        2 * weights + activations // devices,
        rollout,
        "estimated",
    )


# ------------------------------------------------------------------------------------------------- hours


def hours_of(spec: Rl, shape: ModelShape, chip: Chip) -> Hours:
    """Hours of a stage; see the module for the formulas."""
    rollout = update = 0.0
    token = _decode_bytes(spec, shape) / (chip.bandwidth * READING)
    rounds = spec.dynamic_sampling.max_rounds if spec.dynamic_sampling is not None else 1
    asked = spec.prompts * spec.samples
    for limit, steps in _limits(spec).items():
        waves = math.ceil(asked / max(spec.rollout_batch, spec.mesh.fsdp))
        rollout += steps * rounds * waves * limit * token
        update += steps * _update_cells(spec, limit) * _update_flops(spec, shape)
    if spec.validation is not None:
        times = spec.steps // spec.validation.every + 2
        waves = math.ceil(spec.validation.prompts * spec.validation.samples / spec.rollout_batch)
        rollout += times * waves * spec.last_limit * token
    return Hours(rollout / 3600, update / (spec.mesh.devices * chip.flops * UTILISATION) / 3600)


def _limits(spec: Rl) -> dict[int, int]:
    """How many steps each limit of the completions holds for."""
    found: dict[int, int] = {}
    for step in range(1, spec.steps + 1):
        found[spec.limit(step)] = found.get(spec.limit(step), 0) + 1
    return found


def _update_cells(spec: Rl, limit: int) -> int:
    """Cells that a step computes where every sample has `limit` tokens.

    A row is compiled for the longest limit and is computed whole, however little of it samples fill; micro-batches
    are filled up with empty rows.
    """
    row = spec.row_length or spec.longest
    in_a_row = max(1, row // (spec.prompt_length + limit))
    rows = math.ceil(spec.rows / spec.mesh.fsdp) * spec.mesh.fsdp
    # The groups are divided as evenly as they can be.
    ends = [spec.prompts * n // spec.minibatches for n in range(spec.minibatches + 1)]
    filled = [
        math.ceil((end - start) * spec.learnt_samples / in_a_row) for start, end in itertools.pairwise(ends)
    ]
    return sum(math.ceil(own / rows) for own in filled) * rows * row


def _update_flops(spec: Rl, shape: ModelShape) -> float:
    """FLOPs of a cell of a packed row: forward and backward pass, and the passes that only give log-probabilities."""
    others = bool(spec.kl) + (spec.minibatches * spec.epochs > 1)
    passes = spec.epochs * PASSES[spec.remat] + 2 * others
    attention = attention_flops(shape.config, spec.row_length or spec.longest, spec.attention_chunk)
    return passes * (shape.parameters + attention)


def attention_flops(config: GemmaConfig, row: int, chunk: int | None) -> float:
    """What attention adds to a parameter count: scores and reading are 2 · A · cells seen multiplications in a layer.

    The forward pass of N parameters is 2N FLOPs a cell, so this times two. Every query meets the whole row: masks
    hide, they save nothing. Only where queries attend `chunk` at a time are keys before a layer's window left out.
    """
    local = row if chunk is None else min(row, config.sliding_window + chunk)
    seen = sum(local if kind == SLIDING else row for kind in config.layer_types)
    return 2.0 * seen * config.num_attention_heads * config.head_dim


def _decode_bytes(spec: Rl, shape: ModelShape) -> int:
    return decode_bytes(
        shape,
        spec.mesh,
        rows=spec.rollout_batch,
        slots=spec.prompt_length + spec.last_limit,
        unit=BYTES[spec.compute or spec.dtype],
    )


def decode_bytes(shape: ModelShape, mesh: Mesh, *, rows: int, slots: int, unit: int) -> int:
    """Bytes that one chip reads for one token of each of its rows: weights, the whole cache, logits."""
    config = shape.config
    own = math.ceil(rows / mesh.fsdp)
    heads = config.num_key_value_heads
    heads = heads // mesh.tp if heads % mesh.tp == 0 else heads
    cache = 2 * config.num_hidden_layers * heads * config.head_dim * slots * own * unit
    logits = _LOGIT_PASSES * 4 * own * config.vocab_size // mesh.tp
    return shape.parameters * unit // mesh.tp + cache + logits


def train_hours(
    tokens: float, shape: ModelShape, mesh: Mesh, row: int, *, chunk: int | None = None, passes: int = 6
) -> float | None:
    """Hours of fine-tuning on so many tokens, in rows of so many cells; None where no chip is named.

    Args:
        chunk: queries that attend at a time; None: all of a row.
    """
    if mesh.chip is None:
        return None
    flops = tokens * passes * (shape.parameters + attention_flops(shape.config, row, chunk))
    return flops / (mesh.devices * CHIPS[mesh.chip].flops * UTILISATION) / 3600


def sample_hours(
    samples: int, shape: ModelShape, mesh: Mesh, *, rows: int, prompt: int, new: int, dtype: str
) -> float | None:
    """Hours of drawing so many samples of at most `new` tokens; None where no chip is named."""
    if mesh.chip is None:
        return None
    token = decode_bytes(shape, mesh, rows=rows, slots=prompt + new, unit=BYTES[dtype])
    return math.ceil(samples / rows) * new * token / (CHIPS[mesh.chip].bandwidth * READING) / 3600
