"""The reference solutions of HumanEval and MBPP pass; broken ones do not; thousands in a row leave nothing."""

import gc
import gzip
import json
import os
import resource
from pathlib import Path
from typing import TypeVar

import pytest
from sandbox_left import descendants

from tracelift_jax.tasks.sandbox import Bubblewrap, Limits, Pool, Program

PATIENT = Limits(seconds=60.0)
"""One reference solution of MBPP takes some seconds."""


Task = TypeVar("Task", str, int)


def human_eval(data: Path) -> dict[str, Program]:
    with gzip.open(data / "humaneval" / "HumanEval.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in lines]
    return {
        row["task_id"]: Program(
            row["prompt"] + row["canonical_solution"], checks=(f"{row['test']}\ncheck({row['entry_point']})",)
        )
        for row in rows
    }


def mbpp(data: Path) -> dict[int, Program]:
    with open(data / "mbpp" / "mbpp.jsonl", newline="\n") as lines:
        rows = [json.loads(line) for line in lines]
    return {
        row["task_id"]: Program(
            row["code"], checks=tuple(f"{row['test_setup_code']}\n{test}" for test in row["test_list"])
        )
        for row in rows
    }


def failures(programs: dict[Task, Program]) -> dict[Task, list[str]]:
    with Pool(Bubblewrap(), 2) as pool:
        results = pool.run(programs.values(), PATIENT)
    ends = {name: [run.status for run in runs] for name, runs in zip(programs, results, strict=True)}
    assert all(len(ends[name]) == len(program.checks) for name, program in programs.items())
    return {name: end for name, end in ends.items() if set(end) != {"ok"}}


def test_human_eval_reference_solutions_pass(boxes: Bubblewrap, shared_data: Path) -> None:
    """Every fourth, with it those whose check calls a function that the statement defines."""
    programs = human_eval(shared_data)
    assert len(programs) == 164
    assert failures(dict(list(programs.items())[::4])) == {}
    assert failures({name: programs[name] for name in ("HumanEval/38", "HumanEval/50")}) == {}


@pytest.mark.slow
def test_all_human_eval_reference_solutions_pass(boxes: Bubblewrap, shared_data: Path) -> None:
    assert failures(human_eval(shared_data)) == {}


def test_mbpp_reference_solutions_pass(boxes: Bubblewrap, shared_data: Path) -> None:
    """Every fortieth, and those that need more than plain values: classes, types as arguments, a name of Python's."""
    programs = mbpp(shared_data)
    assert len(programs) == 974
    special = {name for name, program in programs.items() if "class " in program.source} | {533, 126}
    assert failures({name: programs[name] for name in sorted({*list(programs)[::40], *special})}) == {}


@pytest.mark.slow
def test_all_mbpp_reference_solutions_pass(boxes: Bubblewrap, shared_data: Path) -> None:
    assert failures(mbpp(shared_data)) == {}


def broken(program: Program, seed: int) -> Program:
    """A program with one character of its last line changed: one that a body has, and that Python reads otherwise."""
    lines = program.source.rstrip().split("\n")
    changes = str.maketrans("0123456789+-*<>=", "1234567890-+/><!")
    places = [i for i, letter in enumerate(lines[-1]) if letter in "0123456789+-*<>"] or [len(lines[-1]) - 1]
    place = places[seed % len(places)]
    lines[-1] = lines[-1][:place] + lines[-1][place].translate(changes) + lines[-1][place + 1 :]
    if lines[-1] == program.source.rstrip().split("\n")[-1]:
        lines[-1] = lines[-1][:-1]
    return Program("\n".join(lines), checks=program.checks)


def test_reference_solutions_with_one_character_broken_mostly_fail(boxes: Bubblewrap, shared_data: Path) -> None:
    """Not all: a changed bound or sign is sometimes right as well, and tests do not see everything."""
    programs = {name: broken(program, 0) for name, program in human_eval(shared_data).items()}
    failed = failures(dict(list(programs.items())[::8]))
    assert len(failed) > 0.9 * 21, len(failed)


@pytest.mark.slow
def test_thousands_in_a_row_leave_nothing(boxes: Bubblewrap) -> None:
    """5,000 programs, of which some misbehave: neither processes nor descriptors nor memory grow."""
    programs = [
        Program(f"print({i})" if i % 10 else "import os; os.fork(); open('x', 'w').write('y' * 99)", inputs=("",))
        for i in range(5000)
    ]
    with Pool(Bubblewrap(), 2) as pool:
        pool.run(programs[:200], PATIENT)
        gc.collect()
        before = (len(descendants(os.getpid())), len(os.listdir("/proc/self/fd")))
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        results = pool.run(programs, PATIENT)
        gc.collect()
        assert (len(descendants(os.getpid())), len(os.listdir("/proc/self/fd"))) == before
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 50 * 1024
    assert {runs[0].status for runs in results} == {"ok"}
    assert [runs[0].stdout for runs in results[1:10]] == [f"{i}\n" for i in range(1, 10)]
