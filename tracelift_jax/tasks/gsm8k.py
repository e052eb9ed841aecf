"""GSM8K and whatever is written like it: a question, and worked steps that end in `#### number`."""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tracelift_jax.errors import UserError
from tracelift_jax.tasks.prepared import prepared_rows, write_prepared
from tracelift_jax.tasks.problem import Problem
from tracelift_jax.tasks.rows import read_numbered, require

SPLITS = ("train", "test")

# Commas and spaces are dropped only where they group thousands: "1,5" may mean one and a half, and must not become 15.
_WHOLE = r"(?:\d{1,3}(?:[, ]\d{3})+|\d+)"
_NUMBER = re.compile(rf"-?(?:{_WHOLE}(?:\.\d+|/0*[1-9]\d*)?|\.\d+)", re.ASCII)
_CALCULATOR = re.compile(r"<<.*?>>")


@dataclasses.dataclass(frozen=True)
class Gsm8kTask:
    """Problems with worked solutions, from JSONL files or a prepared tensorflow-datasets directory.

    Attributes:
        train: a JSONL file, gzip or not; or the versioned directory of a tensorflow-datasets dataset written in
            array_record (as `prepare` returns), whose split "train" is read.
        test: the same for "test"; both may name one directory.
        question_field: the field that holds the problem's statement.
        answer_field: the field that holds the steps and, after `####`, the number.
    """

    train: str
    test: str
    question_field: str = "question"
    answer_field: str = "answer"

    def problems(self, split: str) -> Sequence[Problem]:
        """Every problem of a split, read and checked before the first is used.

        Ids are "gsm8k/{split}/{row}" with rows from 0, so they are stable as long as the file is.

        Raises:
            UserError: there is no such split, the file cannot be read, or a row has no question or no number.
        """
        if split not in SPLITS:
            raise UserError(f'split "{split}": there are "train" and "test"')
        path = {"train": self.train, "test": self.test}[split]
        rows = prepared_rows(path, split) if Path(path).is_dir() else _file_rows(path)
        return tuple(self._problem(row, where, f"gsm8k/{split}/{i}") for i, (where, row) in enumerate(rows))

    def _problem(self, row: Mapping[str, Any], where: str, problem_id: str) -> Problem:
        question = require(row, self.question_field, where).strip()
        steps, mark, tail = require(row, self.answer_field, where).rpartition("####")
        number = _NUMBER.fullmatch(tail.strip())
        if not mark or not number:
            raise UserError(
                f'{where}: no number after "####" in "{self.answer_field}"; end it with a line such as "#### 18"'
            )
        answer = re.sub("[, ]", "", number.group())
        return Problem(problem_id, text=question, answer=answer, reasoning=_CALCULATOR.sub("", steps).strip())


def prepare(jsonl_by_split: Mapping[str, str | Path], out_dir: str | Path) -> Path:
    """Writes JSONL files as one tensorflow-datasets dataset in array_record, rows in their order. Needs no TensorFlow.

    Only fields that are text in every row of every split are kept.

    Args:
        jsonl_by_split: the file behind each split, for example {"train": "train.jsonl", "test": "test.jsonl"}.
        out_dir: where the dataset goes, as OUT_DIR/gsm8k_rows/1.0.0.

    Returns:
        The versioned directory, for `Gsm8kTask`.

    Raises:
        UserError: a file cannot be read, there is no field to keep, or the dataset is already there.
    """
    rows = {split: [row for _, row in read_numbered(path)] for split, path in jsonl_by_split.items()}
    everything = [row for split_rows in rows.values() for row in split_rows]
    texts = [{key for key, value in row.items() if isinstance(value, str)} for row in everything]
    fields = sorted(set.intersection(*texts)) if texts else []
    if not fields:
        raise UserError("nothing to prepare: no field is text in every row of every split")

    return write_prepared("gsm8k_rows", fields, rows, out_dir)


def _file_rows(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    return ((f"{path}:{number}", row) for number, row in read_numbered(path))
