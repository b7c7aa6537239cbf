"""The mesh of devices that a model lies on."""

from __future__ import annotations

from typing import Any

from filters.errors import UserError


def make_mesh(fsdp: int, tp: int) -> Any:
    """A mesh with the axes "fsdp" and "tp", as Tunix's partition rules name them; None for one device.

    Raises:
        UserError: there are fewer devices.
    """
    wanted = fsdp * tp
    if wanted == 1:
        return None
    import jax

    if len(jax.devices()) < wanted:
        raise UserError(
            f"mesh fsdp {fsdp} × tp {tp} wants {wanted} devices, and there are {len(jax.devices())}"
        )
    return jax.make_mesh(
        (fsdp, tp),
        ("fsdp", "tp"),
        axis_types=(jax.sharding.AxisType.Auto,) * 2,
        devices=jax.devices()[:wanted],
    )
