"""What the tests of the sandbox share: limits that are soon passed, and the processes that there are."""

from pathlib import Path

from tracelift_jax.tasks.sandbox import Limits

QUICK = Limits(seconds=0.6, memory_mb=256, output_kb=64, disk_mb=8)


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
