"""Joining the other processes of a run, and what the cloud's metadata server says of this machine.

JAX is imported where it is needed: the command line asks before it is.
"""

import os
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tracelift_jax.errors import Interrupted, UserError

ADDRESS, COUNT, NUMBER = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
ALONE = f"{COUNT}=1 runs this process by itself"


def join() -> None:
    """Joins the other processes of this run, if the environment tells of any; before anything touches a device.

    In this order: JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID; the tasks of
    a SLURM step; the hosts of a TPU slice, from GKE's variables or the metadata server. JAX_NUM_PROCESSES=1 joins none.

    Raises:
        UserError: the variables contradict each other.
        Interrupted: the other processes could not be reached.
    """
    import jax

    told = _told()
    if told.get(COUNT) == "1" or jax.distributed.is_initialized():
        return
    if COUNT in told or NUMBER in told:
        _initialize("the variables", **_explicit(told))
    elif several_told():
        _initialize("SLURM's variables", cluster_detection_method="slurm")
    elif _on_tpu_slice():
        _initialize("the TPU's metadata")


def several_told() -> bool:
    """Whether the variables tell of several processes; looks at nothing else, and not at JAX."""
    count = _told().get(COUNT, "")
    return count != "1" and (bool(count) or int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1)


def _told() -> dict[str, str]:
    return {name: os.environ[name] for name in (ADDRESS, COUNT, NUMBER) if os.environ.get(name)}


def _initialize(source: str, **arguments: Any) -> None:
    import jax

    try:
        jax.distributed.initialize(**arguments)
    except ValueError as error:
        raise UserError(f"{source} do not tell of the other processes: {_first_line(error)}; {ALONE}") from error
    except RuntimeError as error:  # they may only be late
        raise Interrupted(f"could not join the other processes by {source}: {_first_line(error)}; {ALONE}") from error


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]


def _explicit(told: Mapping[str, str]) -> dict[str, Any]:
    for name in (ADDRESS, COUNT, NUMBER):
        if name not in told:
            raise UserError(f"{name} is not set; several processes need {ADDRESS}, {COUNT} and {NUMBER}")
    numbers = {}
    for name in (COUNT, NUMBER):
        if not told[name].isdecimal():
            raise UserError(f"{name} must be a whole number, got {told[name]!r}")
        numbers[name] = int(told[name])
    if not numbers[NUMBER] < numbers[COUNT]:
        raise UserError(f"{NUMBER} must be below {COUNT} = {numbers[COUNT]}, got {numbers[NUMBER]}")
    if not told[ADDRESS].rpartition(":")[2].isdecimal():
        raise UserError(f"{ADDRESS} must be host:port, got {told[ADDRESS]!r}")
    return {
        "coordinator_address": told[ADDRESS],
        "num_processes": numbers[COUNT],
        "process_id": numbers[NUMBER],
        # Otherwise JAX goes on to look for a cluster of its own, to find out which devices are whose.
        "cluster_detection_method": "deactivate",
    }


def _on_tpu_slice() -> bool:
    """Whether this is one of several hosts of a TPU slice."""
    if not any(Path("/dev").glob("accel*")) and not any(Path("/dev").glob("vfio/[0-9]*")):
        return False
    hosts = os.environ.get("TPU_PROCESS_ADDRESSES") or os.environ.get("TPU_WORKER_HOSTNAMES")
    if hosts is not None:
        return "," in hosts
    endpoints = metadata("instance/attributes/worker-network-endpoints")
    return endpoints is not None and "," in endpoints


def metadata(path: str, seconds: float = 2.0) -> str | None:
    """What the cloud's metadata server says of this machine at `path`; None where there is none, or nothing there."""
    host = os.environ.get("GCE_METADATA_HOST", "metadata.google.internal")
    request = urllib.request.Request(f"http://{host}/computeMetadata/v1/{path}", headers={"Metadata-Flavor": "Google"})
    try:
        with urllib.request.urlopen(request, timeout=seconds) as reply:
            return reply.read().decode()
    except OSError:  # no such host, no such page, no answer
        return None
