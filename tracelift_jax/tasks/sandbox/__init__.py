"""Programs that a model wrote, run where they can do no harm: `run_program`, or `open_sandbox` and `open_pool`."""

import atexit
import functools

from tracelift_jax.tasks.sandbox.bubblewrap import Bubblewrap
from tracelift_jax.tasks.sandbox.config import SandboxConfig, open_pool, open_sandbox
from tracelift_jax.tasks.sandbox.pool import Pool
from tracelift_jax.tasks.sandbox.program import Limits, Program, Ran, Sandbox, Status
from tracelift_jax.tasks.sandbox.remote import Remote
from tracelift_jax.tasks.sandbox.unprotected import Unprotected

__all__ = (
    "Bubblewrap",
    "Limits",
    "Pool",
    "Program",
    "Ran",
    "Remote",
    "Sandbox",
    "SandboxConfig",
    "Status",
    "Unprotected",
    "open_pool",
    "open_sandbox",
    "run_program",
)


_LIMITS = Limits()


def run_program(source: str, stdin: str = "", limits: Limits = _LIMITS) -> Ran:
    """Runs a Python program once, in a box of its own.

    Raises:
        UserError: no box can be made here; the message says how that can be changed.
    """
    (ran,) = _standard().run(Program(source, inputs=(stdin,)), limits)
    return ran


@functools.cache
def _standard() -> Bubblewrap:
    sandbox = Bubblewrap()
    atexit.register(sandbox.close)
    return sandbox
