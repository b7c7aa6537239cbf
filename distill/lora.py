"""Low-rank adapters on a Gemma's matrices (LoRA, Hu et al. 2021, arXiv 2106.09685), on quantised ones too (QLoRA,
Dettmers et al. 2023, arXiv 2305.14314).

A matrix W stays as it is and gets a product beside it: W + alpha / rank · A B, where A is drawn and B begins at 0.
Modules of our own in place of Tunix's, rather than qwix's interception: that finds a module by looking at the
caller's stack frames and leaves a path in every layer, so layers are no longer alike and cannot be one loop
(`distill.gemma.forward`). Quantisation is qwix's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from distill.gemma.checkpoint import Slot, read_tensor, slots, text_tensors, to_hf
from distill.gemma.folder import ModelFolder
from distill.gemma.mesh import fetch, put
from distill.gemma.product import product
from distill.lora_settings import TARGETS, LoraConfig
from filters.errors import UserError

if TYPE_CHECKING:
    from jax.sharding import Mesh
    from tunix.models.gemma3.model import Gemma3


@dataclass(frozen=True, slots=True)
class _Kind:
    """The letters of a matrix's axes, of what it is multiplied with and of the result; r is the rank.

    `stack` is an axis along which several matrices lie, each with adapters of its own.
    """

    weight: str
    x: str
    y: str
    stack: str = ""

    @property
    def contracted(self) -> str:
        return "".join(c for c in self.weight if c in self.x)

    @property
    def a(self) -> str:
        return self.stack + self.contracted + "r"

    @property
    def b(self) -> str:
        return self.stack + "r" + "".join(c for c in self.weight if c not in self.x and c not in self.stack)

    @property
    def middle(self) -> str:
        return self.stack + "".join(c for c in self.x if c not in self.contracted) + "r"


_LINEAR = _Kind("DF", "BTD", "BTF")
_KINDS: Mapping[str, _Kind] = {
    "q_einsum": _Kind("NDH", "BTD", "BTNH"),
    "kv_einsum": _Kind("CKDH", "BTD", "CBTKH", "C"),
    "qkv_einsum": _Kind("SNDH", "BTD", "SBTNH", "S"),
    "attn_vec_einsum": _Kind("NHD", "BTNH", "BTD"),
    "gate_proj": _LINEAR,
    "up_proj": _LINEAR,
    "down_proj": _LINEAR,
}
TEXT_MODEL = "language_model"
"""The part of a Gemma that sees images too which is the Gemma here."""
_WEIGHT = {"attn": "w", "mlp": "kernel"}


class FrozenParam(nnx.Variable[Any]):  # type: ignore[misc]
    """A quantised matrix: never trained, and no part of a checkpoint."""


class Quantised(nnx.Module):  # type: ignore[misc]
    """A matrix product with a matrix that is kept in few bits and expanded where it is used."""

    def __init__(self, kind: _Kind, weight: Any, shape: tuple[int, ...], axes: Any) -> None:
        self._product = f"{kind.x},{kind.weight}->{kind.y}"
        self.shape = shape
        self.w = FrozenParam(weight, out_sharding=axes)

    def __call__(self, x: Float[Array, ...]) -> Float[Array, ...]:
        import qwix

        return jnp.einsum(self._product, x, qwix.dequantize(self.w[...]).astype(x.dtype))


class LowRank(nnx.Module):  # type: ignore[misc]
    """A module of Tunix's, or a quantised one, with adapters beside it."""

    def __init__(self, base: Any, kind: _Kind, a: Any, b: Any, scale: float) -> None:
        self.base, self.a, self.b = base, a, b
        self.scale = scale
        self._first = f"{kind.x},{kind.a}->{kind.middle}"
        self._second = f"{kind.middle},{kind.b}->{kind.y}"
        self._delta = f"{kind.a},{kind.b}->{kind.weight}"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the matrix: Tunix's attention asks for it."""
        found: tuple[int, ...] = self.base.shape
        return found

    def __call__(self, x: Float[Array, ...]) -> Float[Array, ...]:
        low = product(self._first, x, self.a[...].astype(x.dtype))
        return self.base(x) + self.scale * product(self._second, low, self.b[...].astype(x.dtype))

    def matrix(self) -> Float[Array, ...]:
        """The matrix with the adapters added, in its own dtype; what sampling computes with."""
        import qwix

        if isinstance(self.base, Quantised):
            start = qwix.dequantize(self.base.w[...])
        else:
            start = (self.base.w if hasattr(self.base, "w") else self.base.kernel)[...]
        return (start.astype(jnp.float32) + self.delta()).astype(start.dtype)

    def delta(self) -> Float[Array, ...]:
        """What the adapters add to the matrix, in its own arrangement, float32."""
        a, b = (jnp.asarray(part[...], jnp.float32) for part in (self.a, self.b))
        return self.scale * jnp.einsum(self._delta, a, b)


# ---------------------------------------------------------------------------------------------- attaching


def attach(model: Gemma3, config: LoraConfig, *, seed: int, mesh: Mesh | None = None) -> None:
    """Put adapters beside a model's matrices, in place; the matrices themselves are quantised where asked for.

    A is drawn uniformly from ± 1 / sqrt(inputs), as PEFT's is, by `seed` and the matrix's place; B is 0, so the
    model computes what it did. Adapters are float32.

    Raises:
        UserError: a target that this model has stacked with another is named without it, or a tile does not
            divide a matrix.
    """
    for number, layer in enumerate(model.layers):
        for place, (part, name, kind) in enumerate(_matrices(layer, config)):
            owner = getattr(layer, part)
            base = getattr(owner, name)
            variable = getattr(base, _WEIGHT[part])
            axes = variable.get_metadata().get("out_sharding") or (None,) * len(kind.weight)
            axis = dict(zip(kind.weight, axes, strict=True))
            size = dict(zip(kind.weight, variable.shape, strict=True)) | {"r": config.rank}
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), number), place)
            inputs = int(np.prod([size[c] for c in kind.contracted]))
            shape = tuple(size[c] for c in kind.a)
            drawn = jax.random.uniform(key, shape, jnp.float32, -1.0, 1.0) / np.sqrt(inputs)
            a = _placed(drawn, tuple(axis.get(c) for c in kind.a), mesh)
            b = _placed(jnp.zeros(tuple(size[c] for c in kind.b)), tuple(axis.get(c) for c in kind.b), mesh)
            if config.weights != "same":
                base = _quantised(kind, variable, config, f"layers.{number}.{part}.{name}")
            setattr(owner, name, LowRank(base, kind, a, b, config.alpha / config.rank))


def attached(model: Gemma3, config: LoraConfig, mesh: Mesh | None = None) -> Gemma3:
    """`attach` for a model without memory (`distill.gemma.checkpoint.abstract_model`): another one, with adapters."""
    graph, state = nnx.split(model)

    def build() -> Gemma3:
        whole = nnx.merge(graph, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), state))
        attach(whole, config, seed=0, mesh=mesh)
        return whole

    found: Gemma3 = nnx.eval_shape(build)
    return found


def _matrices(layer: Any, config: LoraConfig) -> Iterator[tuple[str, str, _Kind]]:
    """(attention or feed-forward, the module's name, its axes) of every matrix that gets adapters."""
    wanted = {TARGETS[target] for target in config.targets}
    parted = wanted & {"q_einsum", "kv_einsum"}
    if layer.attn.use_qkv_einsum and parted:
        if len(parted) == 1:
            raise UserError(
                "lora.targets: q_proj, k_proj and v_proj lie in one array of this model; give all or none"
            )
        wanted = wanted - parted | {"qkv_einsum"}
    for name, kind in _KINDS.items():
        if name in wanted:
            yield ("mlp" if kind is _LINEAR else "attn"), name, kind


def _placed(array: Any, axes: tuple[Any, ...], mesh: Mesh | None) -> Any:
    """An adapter where its matrix lies; an axis that does not divide it leaves it whole there."""
    if mesh is None:
        return nnx.LoRAParam(array)
    axes = tuple(a if a and n % mesh.shape[a] == 0 else None for a, n in zip(axes, array.shape, strict=True))
    if not isinstance(array, jax.core.Tracer):  # one of a model without memory stays where it is
        place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
        array = put(np.asarray(array), place)
    return nnx.LoRAParam(array, out_sharding=axes)


def _quantised(kind: _Kind, variable: Any, config: LoraConfig, where: str) -> Quantised:
    """The matrix in blocks of `tile` inputs with a scale each, of fewer where that does not divide them."""
    import qwix

    axis = kind.weight.index(kind.contracted[-1])
    tile = math.gcd(
        config.tile, variable.shape[axis]
    )  # of a head whose width 64 does not divide, a part of it
    if tile < min(8, config.tile):
        raise UserError(
            f"lora.tile {config.tile} does not divide {where}, which has {variable.shape[axis]} inputs, and nor do 8"
        )
    others = [i for i in range(len(kind.weight)) if i != axis]
    array = qwix.quantize(variable[...], config.weights, channelwise_axes=others, tiled_axes={axis: tile})
    return Quantised(kind, array, tuple(variable.shape), variable.get_metadata().get("out_sharding"))


def has_adapters(model: Any) -> bool:
    return bool(jax.tree.leaves(nnx.state(model, nnx.LoRAParam)))


# ------------------------------------------------------------------------------------------------- leaving


def adapters(model: Gemma3) -> dict[tuple[str | int, ...], LowRank]:
    """Every adapted module by the path of its matrix, as `distill.gemma.checkpoint.slots` names it."""
    found: dict[tuple[str | int, ...], LowRank] = {}
    for number, layer in enumerate(model.layers):
        for part in ("attn", "mlp"):
            for name in _KINDS:
                module = getattr(getattr(layer, part), name, None)
                if isinstance(module, LowRank):
                    found["layers", number, part, name, _WEIGHT[part]] = module
    return found


def merged_tensors(model: Gemma3, folder: ModelFolder) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """The base's weights with the adapters added, under Hugging Face's names, one at a time, in the base's dtypes.

    A matrix that was quantised is the one that was trained beside, expanded: the sum is what was trained.
    """
    import qwix

    there, found = text_tensors(folder), adapters(model)
    for name, slot in slots(folder.config).items():
        base = read_tensor(there[name])
        module = found.get(slot.path)
        if module is None:
            yield name, np.ascontiguousarray(base)
            continue
        delta = _part(fetch(module.delta()), slot)
        if isinstance(module.base, Quantised):
            whole = fetch(qwix.dequantize(module.base.w[...])).astype(np.float32)
            start = _part(whole, slot)
        else:
            start = np.asarray(base, np.float32)
        yield name, np.ascontiguousarray((start + delta).astype(base.dtype))


def _part(array: np.ndarray[Any, Any], slot: Slot) -> np.ndarray[Any, Any]:
    return to_hf(array if slot.part is None else array[slot.part], slot.layout)


def peft_stem(name: str, folder: ModelFolder) -> str:
    """What PEFT calls the module of a weight: as transformers 5 makes it of the base, of one that sees images too the
    text model being a part."""
    inside = f"model.{TEXT_MODEL}" if folder.multimodal else "model"
    return f"base_model.model.{inside}.{name.removeprefix('model.').removesuffix('.weight')}"


def peft_tensors(model: Gemma3, folder: ModelFolder) -> dict[str, np.ndarray[Any, Any]]:
    """The adapters as PEFT stores them: lora_A (rank, inputs) and lora_B (outputs, rank), float32."""
    tensors = {}
    found = adapters(model)
    for name, slot in slots(folder.config).items():
        module = found.get(slot.path)
        if module is None:
            continue
        a, b = (fetch(part[...]).astype(np.float32) for part in (module.a, module.b))
        if slot.part is not None:
            a, b = a[slot.part], b[slot.part]
        stem = peft_stem(name, folder)
        tensors[f"{stem}.lora_A.weight"] = np.ascontiguousarray(a.reshape(-1, a.shape[-1]).T)
        tensors[f"{stem}.lora_B.weight"] = np.ascontiguousarray(b.reshape(b.shape[0], -1).T)
    return tensors
