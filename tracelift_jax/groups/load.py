"""Groups from files: JSON Lines in the layout of TraceLift-Groups, prepared data sets, and the split by hash."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tracelift_jax.checked import check_types, require
from tracelift_jax.errors import UserError
from tracelift_jax.groups.schema import Group
from tracelift_jax.tasks.prepared import prepared_rows, write_prepared
from tracelift_jax.tasks.rows import read_numbered

SPLITS = ("train", "test")
PREPARED_NAME = "tracelift_groups"

_TEXTS = ("problem_id", "source", "task_type", "problem", "reference_solution")
_POOLS = ("positive_pool", "negative_bank")
_NEEDED = ("problem_id", "problem")


def load_groups(path: str | Path) -> list[Group]:
    """The groups of a JSONL file, plain or gzip, in their order; both rubrics may occur.

    Raises:
        UserError: the file cannot be read or is empty, a line is no group, or two have one `problem_id`. The message
            begins with FILE:LINE and names the field.
    """
    return _groups((f"{path}:{number}", row) for number, row in read_numbered(path))


def load_prepared(directory: str | Path, split: str) -> list[Group]:
    """The groups of a split of a prepared data set; `directory` is what `prepare_groups` returned.

    Raises:
        UserError: it is no such directory, has no such split, or holds something else than groups.
    """
    return _groups((where, _unpacked(row, where)) for where, row in prepared_rows(str(directory), split))


def prepare_groups(jsonl_by_split: Mapping[str, str | Path], out_dir: str | Path) -> Path:
    """Writes JSONL files of groups as one tensorflow-datasets dataset in array_record. Needs no TensorFlow.

    A row has the layout's text fields as they are and its two pools as JSON; other fields are not kept.

    Args:
        jsonl_by_split: the file behind each split, for example {"train": "train.jsonl", "test": "dev.jsonl"}.
        out_dir: where the data set goes, as OUT_DIR/tracelift_groups/1.0.0.

    Returns:
        The versioned directory, for `GroupFiles` and `load_prepared`.

    Raises:
        UserError: as `load_groups` does, or the data set is already there.
    """
    rows = {split: [_packed(group) for group in load_groups(path)] for split, path in jsonl_by_split.items()}
    if not rows:
        raise UserError("nothing to prepare: name at least one split and its file")
    return write_prepared(PREPARED_NAME, (*_TEXTS, *_POOLS), rows, out_dir)


def split_groups(
    groups: Sequence[Group], seed: int = 18, dev_share: float = 0.1
) -> tuple[tuple[Group, ...], tuple[Group, ...]]:
    """Splits groups by the hash of their ids: which side a group is on does not depend on the order of the file.

    Args:
        groups: with distinct ids.
        seed: gives another split.
        dev_share: this share of the groups, rounded to the nearest number, is held out.

    Returns:
        (train, dev), each in the order of sha256("{seed}\\0{problem_id}"), of which the first are dev.
    """
    ordered = sorted(groups, key=lambda group: hashlib.sha256(f"{seed}\0{group.problem_id}".encode()).hexdigest())
    dev = round(dev_share * len(ordered))
    return tuple(ordered[dev:]), tuple(ordered[:dev])


@dataclasses.dataclass(frozen=True)
class GroupFiles:
    """Groups from files.

    Attributes:
        train: a JSONL file, gzip or not; or a directory that `prepare_groups` wrote, whose split "train" is read.
        test: the same for "test"; both may name one directory. Empty: a share of `train` is held out (`split_groups`).
        seed, dev_share: of that split; they have no part in it where `test` is set.
    """

    train: str
    test: str = ""
    seed: int = 18
    dev_share: float = 0.1

    def __post_init__(self) -> None:
        check_types(self)
        require(bool(self.train), "GroupFiles.train must name a file or a prepared directory")
        require(0 < self.dev_share < 1, f"GroupFiles.dev_share must lie between 0 and 1, got {self.dev_share}")

    def groups(self, split: str) -> tuple[Group, ...]:
        """The groups of "train" or "test", read and checked before the first is used.

        Raises:
            UserError: there is no such split, a file cannot be read, the two share a problem, or one has no group.
        """
        if split not in SPLITS:
            raise UserError(f'split "{split}": there are "train" and "test"')
        train, test = self._both()
        return train if split == "train" else test

    def _both(self) -> tuple[tuple[Group, ...], tuple[Group, ...]]:
        given = _read(self.train, "train")
        if not self.test:
            train, test = split_groups(given, self.seed, self.dev_share)
            if not train or not test:
                raise UserError(
                    f"{self.train}: of {len(given)} groups, GroupFiles.dev_share = {self.dev_share} holds out "
                    f"{len(test)}; give a file of its own as GroupFiles.test, or change the share"
                )
            return train, test
        held_out = _read(self.test, "test")
        shared = {group.problem_id for group in given} & {group.problem_id for group in held_out}
        if shared:
            raise UserError(
                f"{self.test}: {len(shared)} of its problems are also in {self.train}, such as {min(shared)!r}; "
                "remove them from one of the two"
            )
        return tuple(given), tuple(held_out)


def _read(path: str, split: str) -> list[Group]:
    return load_prepared(path, split) if Path(path).is_dir() else load_groups(path)


def _groups(rows: Iterable[tuple[str, Mapping[str, Any]]]) -> list[Group]:
    """Groups of (place, row) pairs, with the place in every error."""
    groups: list[Group] = []
    places: dict[str, str] = {}
    for where, row in rows:
        try:
            group = Group.from_json(row)
            _check_texts(group)
            if group.problem_id in places:
                raise UserError(f"field problem_id: {group.problem_id!r} is also at {places[group.problem_id]}")
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        places[group.problem_id] = where
        groups.append(group)
    return groups


def _check_texts(group: Group) -> None:
    """Refuses what the layout allows and no tokenizer or hash takes."""
    for name, text in _texts(group):
        if name in _NEEDED and not text.strip():
            raise UserError(f"field {name} is empty")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UserError(f"field {name} holds half of a surrogate pair (\\ud800 to \\udfff); remove it") from None


def _texts(group: Group) -> Iterator[tuple[str, str]]:
    """Every text of a group with the name of its field."""
    yield from ((name, getattr(group, name)) for name in _TEXTS)
    for name, pool in zip(_POOLS, (group.positives, group.negatives), strict=True):
        for index, trace in enumerate(pool):
            yield f"{name}[{index}].reasoning", trace.reasoning
            yield f"{name}[{index}].negative_kind", trace.negative_kind


def _packed(group: Group) -> dict[str, str]:
    """The row of a prepared data set."""
    layout = group.to_json()
    return {name: layout[name] for name in _TEXTS} | {name: json.dumps(layout[name]) for name in _POOLS}


def _unpacked(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The layout of a row of a prepared data set."""
    try:
        return {**row, **{name: json.loads(row[name]) for name in _POOLS if name in row}}
    except (ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"{where}: field {' or '.join(_POOLS)} holds no JSON ({reason})") from None
