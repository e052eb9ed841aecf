"""Prepared data: tensorflow-datasets datasets of text fields in array_record, written and read without TensorFlow.

A prepared data set of problems has a row for each, with every field of `Problem`; `oracle` is JSON, "" for None.
"""

import contextlib
import dataclasses
import io
import json
import shutil
import sys
import tempfile
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tracelift_jax.errors import UserError
from tracelift_jax.tasks.oracle import Tests
from tracelift_jax.tasks.problem import AnswerKind, Problem
from tracelift_jax.tasks.rows import require

_INFO_FILE = "dataset_info.json"
_COLUMNS = {field.name: "problem" if field.name == "text" else field.name for field in dataclasses.fields(Problem)}
_PROGRESS = (TextColumn("writing {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())


def write_problems(name: str, problems: Mapping[str, Sequence[Problem]], out_dir: str | Path) -> Path:
    """Writes the problems of each split as one data set, OUT_DIR/NAME/1.0.0, and returns that directory.

    Raises:
        UserError: the data set is already there, or cannot be written.
    """
    rows = {
        split: [
            {column: getattr(problem, field) for field, column in _COLUMNS.items()}
            | {"oracle": json.dumps(problem.oracle.to_json()) if problem.oracle else ""}
            for problem in of_split
        ]
        for split, of_split in problems.items()
    }
    return write_prepared(name, tuple(_COLUMNS.values()), rows, out_dir)


def is_prepared(row: Mapping[str, Any]) -> bool:
    """Whether a row is of a data set that `write_problems` wrote."""
    return {"problem_id", "problem", "answer", "answer_kind"} <= row.keys()


def problem_of(row: Mapping[str, Any], where: str) -> Problem:
    """The problem of a row that `write_problems` wrote.

    Raises:
        UserError: the row holds something else.
    """
    kind = row["answer_kind"]
    for column in ("problem_id", "problem") if kind == "program" else ("problem_id", "problem", "answer"):
        require(row, column, where)
    if kind not in typing.get_args(AnswerKind):
        raise UserError(f'{where}: "answer_kind" is "{kind}"; prepare the data set again')
    oracle = _oracle(row["oracle"], where) if row.get("oracle") else None
    problem = Problem(**{field: row[column] for field, column in _COLUMNS.items() if column in row})
    return dataclasses.replace(problem, oracle=oracle)


def _oracle(text: str, where: str) -> Tests:
    try:
        return Tests.from_json(json.loads(text), where)
    except ValueError as error:
        raise UserError(f'{where}: "oracle" is not JSON ({error}); prepare the data set again') from None


def write_prepared(
    dataset: str, fields: Sequence[str], rows: Mapping[str, Sequence[Mapping[str, Any]]], out_dir: str | Path
) -> Path:
    """Writes a dataset, rows in their order.

    Args:
        dataset: its name. fields: what each row holds, all text. rows: of each split.
        out_dir: where it goes, as OUT_DIR/DATASET/1.0.0.

    Returns:
        The versioned directory, for `prepared_rows`.

    Raises:
        UserError: the dataset is already there, or cannot be written.
    """
    import tensorflow_datasets as tfds  # here, not above: it is slow to import and most runs read files

    console = Console(file=sys.stderr)  # as it is now, before it is redirected
    progress = Progress(*_PROGRESS, console=console, disable=not console.is_terminal)

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """The rows as they are. (`store_as_tfds_dataset` would do, but it imports TensorFlow.)"""

        name = dataset
        VERSION = tfds.core.Version("1.0.0")
        # Where checksums of downloads are sought. There are none, and the search imports importlib_resources,
        # which tensorflow-datasets does not install on every Python.
        code_path = None

        def _info(self):
            features = tfds.features.FeaturesDict({field: tfds.features.Text() for field in fields})
            return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

        def _split_generators(self, dl_manager):
            del dl_manager
            return {split: self._generate_examples(split, split_rows) for split, split_rows in rows.items()}

        def _generate_examples(self, split: str, split_rows: Sequence[Mapping[str, Any]]):
            for i, row in enumerate(progress.track(split_rows, description=split)):
                yield i, {field: row[field] for field in fields}

    builder = Builder(data_dir=str(out_dir), file_format="array_record")
    target = Path(builder.data_dir)
    if target.exists():
        raise UserError(f"{target}: already there; remove it or choose another directory")
    for left_behind in target.parent.glob(f"incomplete.*_{target.name}"):  # by a run that was killed
        shutil.rmtree(left_behind, ignore_errors=True)
    # The "download" folder and the library's own progress bars have nothing to hold or tell here.
    with (
        tempfile.TemporaryDirectory() as unused,
        progress,
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        try:
            # Into a directory of another name, which is removed if this is interrupted, and renamed when it is whole.
            builder.download_and_prepare(download_dir=unused)
        except OSError as error:
            raise UserError(f"{target}: cannot be written ({error.strerror or error})") from None
    return target


def prepared_rows(path: str, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of a prepared dataset, each with its place: DIR:SPLIT:ROW, rows counted from 1 as lines are.

    Raises:
        UserError: `path` is no prepared dataset, it has no such split, or it is damaged.
    """
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
