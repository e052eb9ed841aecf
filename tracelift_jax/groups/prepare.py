"""`tracelift prepare`: problems or groups of files as a tensorflow-datasets data set in array_record."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from tracelift_jax.checked import check_types
from tracelift_jax.errors import UserError
from tracelift_jax.groups.load import GroupFiles, load_prepared, prepare_groups
from tracelift_jax.tasks.code import CodeTask, HumanEval, Mbpp
from tracelift_jax.tasks.files import JsonlTask
from tracelift_jax.tasks.prepared import write_problems
from tracelift_jax.tasks.problem import Problem


@dataclasses.dataclass(frozen=True)
class Prepare:
    """`tracelift prepare`.

    Attributes:
        task: the problems or groups to write, every split that there is; programs with their tests.
    """

    task: JsonlTask | GroupFiles | HumanEval | Mbpp | CodeTask

    def __post_init__(self) -> None:
        check_types(self)


def run_prepare(config: Prepare, out_dir: str) -> Path:
    """Writes the data set and says in one line what is in it.

    Returns:
        Its directory, OUT_DIR/NAME/1.0.0: the `train` and `test` of a `JsonlTask` or `GroupFiles` that reads it.

    Raises:
        UserError: a file cannot be read, there are no problems, or the data set is already there.
    """
    begin = time.monotonic()
    task = config.task
    if isinstance(task, GroupFiles):
        files = {split: path for split, path in (("train", task.train), ("test", task.test)) if path}
        directory = prepare_groups(files, out_dir)
        sizes, what = {split: len(load_prepared(directory, split)) for split in files}, "groups"
    else:
        every = {split: task.problems(split) for split in task.splits}
        problems = {split: of_split for split, of_split in every.items() if of_split}
        if not problems:
            raise UserError("Prepare.task: there are no problems in any of its splits")
        directory = write_problems(task.title if isinstance(task, JsonlTask) else task.name, problems, out_dir)
        sizes, what = {split: len(of_split) for split, of_split in problems.items()}, _what(problems)
    *counts, last = (f"{size} {split}" for split, size in sizes.items())
    counts = " and ".join([", ".join(counts), last] if counts else [last])
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{directory}: {counts} {what}; {time.monotonic() - begin:.1f} s")
    return directory


def _what(problems: Mapping[str, Sequence[Problem]]) -> str:
    """What there is to say of problems besides their number."""
    everything = [problem for of_split in problems.values() for problem in of_split]
    latex = sum(problem.answer_kind == "latex" for problem in everything)
    untested = sum(problem.answer_kind == "program" and problem.oracle is None for problem in everything)
    return (
        "problems"
        + (f", {latex} with an answer that is no number" if latex else "")
        + (f", {untested} without tests" if untested else "")
    )
