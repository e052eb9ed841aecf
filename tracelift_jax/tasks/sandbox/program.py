"""What goes into a sandbox and what comes out: programs, limits, and how each run ended."""

import dataclasses
from collections.abc import Sequence
from typing import Literal, Protocol

from tracelift_jax.checked import check_types, require

Status = Literal["ok", "failed", "raised", "uncompilable", "timeout", "memory", "output", "infrastructure"]
"""How a run ended.

"ok": exit status 0, or the check passed. "failed": the check did not (an assertion of its own). "raised": another exit
status, a signal or an exception of the program. "uncompilable": no Python 3. "timeout", "memory", "output": past that
limit. "infrastructure": nothing is known about the program, because the sandbox failed.
"""


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a program may use; the defaults are the paper's where it has one.

    Attributes:
        seconds: of wall time and of CPU time, for each run. memory_mb: MiB, of all processes of a box together.
        output_kb: KiB of standard output, and as much again of standard error. disk_mb: MiB of the working folder.
        processes: processes and threads at a time. files: open files of a process.
    """

    seconds: float = 2.0
    memory_mb: int = 1024
    output_kb: int = 1024
    disk_mb: int = 64
    processes: int = 32
    files: int = 128

    def __post_init__(self) -> None:
        check_types(self)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            require(value > 0, f"Limits.{field.name} must be above 0, got {value}")


@dataclasses.dataclass(frozen=True)
class Program:
    """One candidate, which gets a box of its own, and the runs it is asked for, one after the other in that box.

    Attributes:
        source: Python 3.
        inputs: of runs of the whole program: what each finds on standard input. Expected output never enters the box.
        checks: of runs by call: Python each, which calls what the program defines, and raises where it is wrong. Checks
            run in a box of their own, and what the program defines is called from there over a pipe, with plain values.
    """

    source: str
    inputs: tuple[str, ...] = ()
    checks: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Ran:
    """One run.

    Attributes:
        status: how it ended. stdout: what it printed, decoded with U+FFFD for what is not UTF-8; "" for a check.
        error: the last line of its traceback or of the sandbox's complaint, at most 500 characters, or "".
        seconds: wall time.
    """

    status: Status
    stdout: str = ""
    error: str = ""
    seconds: float = 0.0


class Sandbox(Protocol):
    """Where programs run."""

    def run(self, program: Program, limits: Limits) -> tuple[Ran, ...]:
        """Runs a program in a fresh box: one `Ran` for each input, then one for each check.

        Never raises for what a program does; a sandbox that fails gives "infrastructure" runs. Thread-safe.
        """
        ...

    def describe(self) -> str:
        """One line for logs: what isolates the programs, and its version."""
        ...


def all_failed(program: Program, status: Status, error: str) -> Sequence[Ran]:
    """The same end for every run of a program."""
    return tuple(Ran(status, error=error[:500]) for _ in range(len(program.inputs) + len(program.checks)))
