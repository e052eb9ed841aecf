"""Prepared data: tensorflow-datasets datasets of text fields in array_record, written and read without TensorFlow."""

import contextlib
import io
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tracelift_jax.errors import UserError

_INFO_FILE = "dataset_info.json"


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
        UserError: the dataset is already there.
    """
    import tensorflow_datasets as tfds  # here, not above: it is slow to import and most runs read files

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
