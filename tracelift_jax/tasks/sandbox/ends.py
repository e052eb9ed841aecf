"""How a program ended, read from what its process leaves: where no runner of ours watched it."""

from typing import get_args

from tracelift_jax.tasks.sandbox.program import Limits, Status

_SYNTAX = ("SyntaxError", "IndentationError", "TabError")


def end_of_process(code: int | None, stdout: str, stderr: str, limits: Limits) -> tuple[Status, str]:
    """The status of a run and what there is to say about it.

    Args:
        code: the exit status of the process, below 0 for a signal; None: it was stopped at its time limit.
    """
    lines = stderr.strip().splitlines()
    last = lines[-1].strip()[:500] if lines else ""
    if code is None:
        return "timeout", f"ran longer than {limits.seconds:g} s"
    if max(len(text.encode(errors="replace")) for text in (stdout, stderr)) > limits.output_kb * 1024:
        return "output", "printed more than it may"
    if code == 0:
        return "ok", ""
    if last.startswith("MemoryError"):
        return "memory", last
    if last.startswith(_SYNTAX) and "Traceback (most recent call last)" not in stderr:
        return "uncompilable", last
    return "raised", last or f"exit status {code}"


def end_of_check(stdout: str, mark: str, process: tuple[Status, str]) -> tuple[Status, str]:
    """What `inside/alone.py` says of a check, or how its process ended before it could."""
    lines = stdout.split("\n", 2)
    if len(lines) == 3 and lines[0] == mark:
        for status in get_args(Status):
            if status == lines[1]:
                return status, lines[2].strip()[:500]
    return ("raised", "the check ended before its verdict") if process[0] == "ok" else process
