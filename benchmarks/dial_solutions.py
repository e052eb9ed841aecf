"""Dial solutions whose first wrong step is known, in ProcessBench's format, for `TrainRm.process_bench`.

    python benchmarks/dial_solutions.py 1000 --out=FILE

One solution for each held-out problem of 3 to 6 operations, by turns the true one and a flawed one. The oracle of the
dial world says which step is the first wrong one. Flawed solutions without a wrong step are not taken: an answer
without steps, and one whose last step is missing.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tracelift_jax.groups.schema import Group
from tracelift_jax.groups.source import DialGroups
from tracelift_jax.tasks.dial import DialTask, check_trace
from tracelift_jax.tasks.problem import Problem

BETWEEN = " ; "
"""What stands between two steps: `ProcessBench.between`."""


def solutions(groups: Sequence[Group], count: int) -> Iterator[dict[str, Any]]:
    """The first `count` solutions: even ones are true, odd ones flawed."""
    rows = iter(range(len(groups)))
    for number in range(count):
        found = None
        while found is None:
            found = _solution(groups[next(rows)], flawed=number % 2 == 1)
        yield found


def _solution(group: Group, flawed: bool) -> dict[str, Any] | None:
    problem = Problem(group.problem_id, group.problem, group.reference_solution)
    for trace in group.negatives if flawed else group.positives[:1]:
        checked, steps = check_trace(problem, trace.reasoning), trace.reasoning.split(BETWEEN)
        if checked.well_formed and checked.first_wrong_step < len(steps):
            label = checked.first_wrong_step
            return {"id": group.problem_id, "problem": group.problem, "steps": steps, "label": label}
    return None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0], allow_abbrev=False)
    parser.add_argument("count", type=int, help="how many solutions")
    parser.add_argument("--out", type=Path, required=True, help="the JSONL file to write")
    args = parser.parse_args()
    lines = [json.dumps(row) + "\n" for row in solutions(DialGroups(DialTask(min_ops=3)).groups("test"), args.count)]
    args.out.write_text("".join(lines))
