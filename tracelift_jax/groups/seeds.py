"""Seeds of groups: problems with a worked solution.

A file in GSM8K's format holds {"question", "answer"}, a working with its number behind `####`.
"""

import dataclasses
from pathlib import Path

from tracelift_jax.groups.schema import RubricName
from tracelift_jax.tasks.gsm8k import Gsm8kTask


@dataclasses.dataclass(frozen=True)
class Seed:
    """A problem to build a group from.

    Attributes:
        problem_id: unique within the file. source: the data set it comes from. task_type: the kind of problem.
        problem: the statement.
        solution: the worked solution as the source has it.
        reference: the answer in canonical form (math) or the program (code).
        rubric_name: "math" or "code". tests: what a reader may know of a program's tests, as text; "" for none.
    """

    problem_id: str
    source: str
    task_type: str
    problem: str
    solution: str
    reference: str
    rubric_name: RubricName = "math"
    tests: str = ""


def read_seeds(path: str | Path) -> list[Seed]:
    """Seeds of a file, with ids "gsm8k/{name of the file}/{row}".

    Raises:
        UserError: the file cannot be read, or a row has no question or no number behind `####`.
    """
    name = Path(path).name.removesuffix(".gz").removesuffix(".jsonl")
    problems = Gsm8kTask(train=str(path), test=str(path)).problems("train")
    return [
        Seed(f"gsm8k/{name}/{row}", "gsm8k", p.task_type, p.text, p.reasoning, p.answer)
        for row, p in enumerate(problems)
    ]
