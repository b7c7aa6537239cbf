"""The devices that a model lies on, of one process or of several (`jax.distributed`). Importing it loads no JAX."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from filters.errors import UserError

if TYPE_CHECKING:
    from jax.sharding import Mesh, Sharding


def join(coordinator: str | None = None, processes: int | None = None, process: int | None = None) -> None:
    """Make this process one of several that train together; before anything asks for devices.

    Args:
        coordinator: HOST:PORT of the first of them; None where the cluster says it (TPU pods, Slurm, Kubernetes).
        processes, process: how many there are, and which this is; None where the cluster says it.

    Raises:
        UserError: the others cannot be found.
    """
    import jax

    try:
        jax.distributed.initialize(coordinator, processes, process)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"this process cannot join the others: {str(error).splitlines()[0]}. Give --coordinator, --processes and "
            "--process where no cluster says them"
        ) from error


def processes() -> int:
    """How many processes train together."""
    import jax

    return int(jax.process_count())


def is_first() -> bool:
    """Is this the process that writes what is not divided among them?"""
    import jax

    return bool(jax.process_index() == 0)


def meet(where: str) -> None:
    """Wait until every process is here."""
    if processes() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(where)


def asked_to_stop(step: int) -> bool:
    """Was one of several processes asked to stop (SIGTERM), and is this the step behind which all of them do?

    To be asked behind every step by every process: they agree on a step that none has passed.
    """
    if processes() == 1:
        return False
    from jax.experimental import multihost_utils

    return bool(multihost_utils.reached_preemption_sync_point(step))


def make_mesh(fsdp: int, tp: int) -> Mesh | None:
    """A mesh with the axes "fsdp" and "tp", as Tunix's partition rules name them; None for one device.

    Raises:
        UserError: there are fewer devices, or devices of other processes would be left out.
    """
    wanted = fsdp * tp
    import jax

    there = jax.devices()
    if len(there) < wanted or (wanted < len(there) and processes() > 1):
        among = f" in {processes()} processes, which must all have a part" if processes() > 1 else ""
        raise UserError(
            f"mesh fsdp {fsdp} × tp {tp} wants {wanted} devices, and there are {len(there)}{among}"
        )
    if wanted == 1:
        return None
    return jax.make_mesh(
        (fsdp, tp), ("fsdp", "tp"), axis_types=(jax.sharding.AxisType.Auto,) * 2, devices=there[:wanted]
    )


def all_devices(tp: int) -> int:
    """How many groups of `tp` devices there are; 1 where JAX is not installed, which is said elsewhere."""
    try:
        import jax
    except ModuleNotFoundError:
        return 1
    return max(1, len(jax.devices()) // max(1, tp))


def put(array: np.ndarray[Any, Any], sharding: Sharding) -> Any:
    """An array that every process has, on the devices: each puts what belongs to its own."""
    import jax

    if processes() == 1:
        return jax.device_put(array, sharding)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def fetch(array: Any) -> np.ndarray[Any, Any]:
    """The whole of an array, in every process; all of them must ask for it."""
    import jax

    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(jax.device_get(array))
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(array, tiled=True))
