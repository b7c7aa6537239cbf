"""Build Gemma 3 text models from nothing: the shapes of the tiny ones, and an initialisation that trains.

Importing this module loads no JAX; the functions do.
"""

from __future__ import annotations

from typing import Any, Literal

from distill.gemma.config import GemmaConfig

Tiny = Literal["teacher", "student"]


def tiny_config(which: Tiny, vocab_size: int) -> GemmaConfig:
    """Shape of a shipped tiny Gemma: five sliding layers and a global one, one key-value head.

    The teacher has about 1.1 million parameters, the student less than a quarter of that; the tied embedding
    is part of both counts.

    Args:
        which: "teacher" or "student".
        vocab_size: rows of the embedding.
    """
    width, hidden, heads, head_dim = {"teacher": (128, 320, 4, 32), "student": (64, 128, 2, 16)}[which]
    return GemmaConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=hidden,
        num_hidden_layers=6,
        num_attention_heads=heads,
        num_key_value_heads=1,
        head_dim=head_dim,
        sliding_window=128,
        query_pre_attn_scalar=head_dim,
        max_position_embeddings=512,
    )


def random_gemma3(config: GemmaConfig, seed: int) -> Any:
    """A randomly initialised Gemma 3 that can learn.

    Tunix initialises the feed-forward kernels with zeros, where every gradient of the block is zero: they
    never train. Here norm scales are 0 (the forward pass adds 1), the embedding is N(0, 1/hidden_size), and
    every kernel is N(0, 1/fan_in).

    Args:
        config: the shape.
        seed: seeds every parameter, by its path; the same seed gives the same model.

    Returns:
        A `tunix.models.gemma3.model.Gemma3` with float32 parameters.
    """
    import zlib

    import jax
    import jax.numpy as jnp

    from distill.gemma.checkpoint import ParamPath, model_from_arrays

    root = jax.random.key(seed)

    def fresh(path: ParamPath, shape: tuple[int, ...]) -> Any:
        name = ".".join(map(str, path))
        if path[-1] == "scale":
            return jnp.zeros(shape)
        key = jax.random.fold_in(root, zlib.crc32(name.encode()))
        return jax.random.normal(key, shape) * _fan_in(name, shape) ** -0.5

    return model_from_arrays(config, fresh)


def _fan_in(name: str, shape: tuple[int, ...]) -> int:
    """Inputs that one output of a kernel adds up (the embedding is read as the tied output kernel)."""
    if "input_embedding" in name:
        return shape[-1]
    if "attn_vec_einsum" in name:  # (heads, head_dim, width)
        return shape[0] * shape[1]
    if "einsum" in name:  # (..., width, head_dim)
        return shape[-2]
    return shape[0]  # a linear kernel: (in, out)


def parameter_count(model: Any) -> int:
    """Number of parameters; the tied embedding counts once."""
    import jax
    from flax import nnx

    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
