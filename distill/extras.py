"""Says which extra to install where a package of the [train] extra is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from filters.errors import UserError

_TRAIN = frozenset({"jax", "jaxlib", "flax", "tunix", "qwix", "orbax", "optax", "safetensors", "tokenizers"})


@contextmanager
def train_extra(what: str) -> Iterator[None]:
    """Turn a missing package of the extra into a sentence.

    Args:
        what: what needs it, as the subject of the sentence, e.g. "training".

    Raises:
        UserError: a package of the extra [train] is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in _TRAIN:
            raise
        raise UserError(
            f"{what} needs the train extra ({error.name} is not installed): pip install 'r1-factory[train]'"
        ) from error
