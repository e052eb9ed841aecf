"""`tracelift prepare`: problems or groups of files as a tensorflow-datasets data set in array_record."""

import dataclasses
import time
from pathlib import Path

from rich.console import Console

from tracelift_jax.checked import check_types
from tracelift_jax.groups.load import GroupFiles, load_prepared, prepare_groups
from tracelift_jax.tasks.files import JsonlTask
from tracelift_jax.tasks.prepared import write_problems


@dataclasses.dataclass(frozen=True)
class Prepare:
    """`tracelift prepare`.

    Attributes:
        task: the problems or groups to write, every split that has a file.
    """

    task: JsonlTask | GroupFiles

    def __post_init__(self) -> None:
        check_types(self)


def run_prepare(config: Prepare, out_dir: str) -> Path:
    """Writes the data set and says in one line what is in it.

    Returns:
        Its directory, OUT_DIR/NAME/1.0.0: the `train` and `test` of a `JsonlTask` or `GroupFiles` that reads it.

    Raises:
        UserError: a file cannot be read, or the data set is already there.
    """
    begin = time.monotonic()
    task = config.task
    if isinstance(task, GroupFiles):
        files = {split: path for split, path in (("train", task.train), ("test", task.test)) if path}
        directory = prepare_groups(files, out_dir)
        sizes, what = {split: len(load_prepared(directory, split)) for split in files}, "groups"
    else:
        problems = {split: task.problems(split) for split in task.splits}
        directory = write_problems(task.title, problems, out_dir)
        sizes, what = {split: len(of_split) for split, of_split in problems.items()}, "problems"
        latex = sum(problem.answer_kind == "latex" for of_split in problems.values() for problem in of_split)
        what += f", {latex} with an answer that is no number" if latex else ""
    counts = " and ".join(f"{size} {split}" for split, size in sizes.items())
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{directory}: {counts} {what}; {time.monotonic() - begin:.1f} s")
    return directory
