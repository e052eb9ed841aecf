"""What the tests of the sandbox share: limits, processes that there are, and programs that wait to be looked at."""

import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path

from tracelift_jax.tasks.sandbox import Bubblewrap, Limits
from tracelift_jax.tasks.sandbox.box import Box

QUICK = Limits(seconds=0.4, memory_mb=256, output_kb=64, disk_mb=8)
"""For what is to be stopped by the clock."""
PATIENT = dataclasses.replace(QUICK, seconds=60.0)
"""For what ends by itself, on however busy a machine."""

HELD = """
import os, time
open('here', 'w').close()
while not os.path.exists('go'): time.sleep(0.01)
"""
"""The beginning of a program that runs on when it is told to; see `boxes_with` and `let_go`."""


def until(condition: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Waits for a condition; False where it does not come."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def boxes_with(sandbox: Bubblewrap, name: str) -> list[Box]:
    """The boxes whose working folder holds a file of this name."""

    def holds(box: Box) -> bool:
        try:
            return box._folder >= 0 and name in os.listdir(box._folder)
        except OSError:  # it is being closed
            return False

    return [box for box in list(sandbox._live) if holds(box)]


def let_go(box: Box) -> None:
    """Lets a program that is held run on."""
    os.close(os.open("go", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=box._folder))


def is_running(pid: int) -> bool:
    """Whether there is such a process, zombies left out."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def descendants(pid: int) -> set[int]:
    """All processes below one, zombies too, read from /proc as `ps` does."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            parents[int(entry.name)] = int(fields[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}
