"""GSM8K and whatever is written like it: a question, and worked steps that end in `#### number`."""

import contextlib
import dataclasses
import io
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tracelift_jax.errors import UserError
from tracelift_jax.tasks.problem import Problem
from tracelift_jax.tasks.rows import read_numbered, require

SPLITS = ("train", "test")

# Commas and spaces are dropped only where they group thousands: "1,5" may mean one and a half, and must not become 15.
_WHOLE = r"(?:\d{1,3}(?:[, ]\d{3})+|\d+)"
_NUMBER = re.compile(rf"-?(?:{_WHOLE}(?:\.\d+|/0*[1-9]\d*)?|\.\d+)", re.ASCII)
_CALCULATOR = re.compile(r"<<.*?>>")
_INFO_FILE = "dataset_info.json"


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
        rows = _prepared_rows(path, split) if Path(path).is_dir() else _file_rows(path)
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
    import tensorflow_datasets as tfds  # here, not above: it is slow to import and most runs read files

    rows = {split: [row for _, row in read_numbered(path)] for split, path in jsonl_by_split.items()}
    everything = [row for split_rows in rows.values() for row in split_rows]
    texts = [{key for key, value in row.items() if isinstance(value, str)} for row in everything]
    fields = sorted(set.intersection(*texts)) if texts else []
    if not fields:
        raise UserError("nothing to prepare: no field is text in every row of every split")

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """The rows as they are. (`store_as_tfds_dataset` would do, but it imports TensorFlow.)"""

        name = "gsm8k_rows"
        VERSION = tfds.core.Version("1.0.0")
        # Where checksums of downloads are sought. There are none, and the search imports importlib_resources,
        # which tensorflow-datasets does not install on every Python.
        code_path = None

        def _info(self):
            features = tfds.features.FeaturesDict({field: tfds.features.Text() for field in fields})
            return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

        def _split_generators(self, dl_manager):
            del dl_manager
            return {split: self._generate_examples(split_rows) for split, split_rows in rows.items()}

        def _generate_examples(self, split_rows: Iterable[Mapping[str, Any]]):
            yield from ((i, {field: row[field] for field in fields}) for i, row in enumerate(split_rows))

    builder = Builder(data_dir=str(out_dir), file_format="array_record")
    target = Path(builder.data_dir)
    if target.exists():
        raise UserError(f"{target}: already there; remove it or choose another directory")
    # The "download" folder and the progress bars have nothing to hold or tell here.
    with (
        tempfile.TemporaryDirectory() as unused,
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        builder.download_and_prepare(download_dir=unused)
    return target


def _file_rows(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    return ((f"{path}:{number}", row) for number, row in read_numbered(path))


def _prepared_rows(path: str, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of a prepared dataset with bytes decoded; a place is DIR:SPLIT:ROW, rows counted from 1 as lines are."""
    if not (Path(path) / _INFO_FILE).is_file():
        inside = sorted(str(found.parent) for found in Path(path).glob(f"*/{_INFO_FILE}"))
        inside += sorted(str(found.parent) for found in Path(path).glob(f"*/*/{_INFO_FILE}"))
        hint = f"; did you mean {inside[0]}?" if inside else ""
        raise UserError(f"{path}: not the versioned directory of a tensorflow-datasets dataset (no {_INFO_FILE}){hint}")
    import tensorflow_datasets as tfds  # here, not above: it is slow to import and most runs read files

    try:
        builder = tfds.builder_from_directory(path)
        if split not in builder.info.splits:
            there = ", ".join(f'"{name}"' for name in builder.info.splits)
            raise UserError(f'{path}: no split "{split}"; there are {there}')
        source = builder.as_data_source(split=split)  # pyright: ignore[reportCallIssue]  (decorated, untyped)
        rows = [source[i] for i in range(len(source))]
    except NotImplementedError:
        raise UserError(f"{path}: not in array_record; prepare it again with that file format") from None
    except UserError:
        raise
    except Exception as error:  # whatever a damaged dataset trips over, several libraries down
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        raise UserError(f"{path}: the prepared dataset cannot be read ({reason})") from None
    return ((f"{path}:{split}:{i + 1}", _decode(row, f"{path}:{split}:{i + 1}")) for i, row in enumerate(rows))


def _decode(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    try:
        return {key: value.decode() if isinstance(value, bytes) else value for key, value in row.items()}
    except UnicodeDecodeError:
        raise UserError(f"{where}: not UTF-8") from None
