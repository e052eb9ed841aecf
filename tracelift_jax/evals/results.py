"""From records to results: `records.jsonl` into arrays, and arrays into everything a report shows."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tracelift_jax.errors import UserError
from tracelift_jax.evals.experiment import NONE, REFERENCE, UNTRAINED
from tracelift_jax.evals.metrics import Outcomes, difference, mean, summary

Group = tuple[str, str, str, str]
"""Benchmark, source, executor, mode."""

GROUP = ("benchmark", "source", "executor", "mode")
COLUMNS = (
    "right", "judged", "answers", "failed", "compared", "disagreed", "well_formed", "leak", "cut", "faithful", "score",
    "likelihood", "tokens", "answer_tokens",
)  # fmt: skip


class Records:
    """All records of an evaluation as arrays.

    Attributes:
        ids: the problems of each benchmark, in the order of their first record. groups: in the order of the records.
    """

    def __init__(self, rows: Iterator[Mapping[str, Any]]):
        self.ids: dict[str, dict[str, int]] = {}
        columns: dict[Group, list[tuple[float, ...]]] = {}
        places: dict[Group, list[int]] = {}
        for row in rows:
            group: Group = (row["benchmark"], row["source"], row["executor"], row["mode"])
            known = self.ids.setdefault(row["benchmark"], {})
            places.setdefault(group, []).append(known.setdefault(row["problem_id"], len(known)))
            columns.setdefault(group, []).append(_numbers(row))
        self.groups = {group: self._outcomes(group, places[group], columns[group]) for group in columns}

    def _outcomes(self, group: Group, places: Sequence[int], rows: Sequence[tuple[float, ...]]) -> Outcomes:
        table = np.array(rows, float)
        by_name = {name: table[:, n] for n, name in enumerate(COLUMNS)}
        for name in ("right", "judged", "answers", "failed", "compared", "disagreed", "tokens"):
            by_name[name] = by_name[name].astype(np.int64)
        for name in ("well_formed", "leak", "cut"):
            by_name[name] = by_name[name].astype(bool)
        return Outcomes(problem=np.array(places), problems=len(self.ids[group[0]]), **by_name)

    def alone(self, group: Group) -> Outcomes | None:
        """The executor of a group without reasoning."""
        benchmark, source, executor, mode = group
        return None if source == NONE else self.groups.get((benchmark, NONE, executor, mode))


def read_records(path: Path) -> Records:
    """Reads `records.jsonl`.

    Raises:
        UserError: it is not there, or holds something else.
    """

    def rows() -> Iterator[dict[str, Any]]:
        with open(path, "rb") as file:
            for line in file:
                yield json.loads(line)

    try:
        return Records(rows())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read as records ({type(error).__name__}: {error})") from None


def _numbers(row: Mapping[str, Any]) -> tuple[float, ...]:
    """A record as numbers, in the order of COLUMNS."""

    def known(value: float | None) -> float:
        return float("nan") if value is None else float(value)

    verdicts, device = row["verdicts"], row["device_verdicts"]
    pairs = [] if device is None else [(a, b) for a, b in zip(verdicts, device, strict=True) if a != "failed"]
    lengths = row["answer_tokens"]
    return (
        row["right"],
        row["judged"],
        len(verdicts),
        len(verdicts) - row["judged"],
        len(pairs),
        sum(a != b for a, b in pairs),
        row.get("well_formed", True),
        row.get("leak", False),
        row["cut"],
        known(row.get("faithful")),
        known(row.get("score")),
        known(row["counted_likelihood"]),
        row.get("trace_tokens", 0),
        float(np.mean(lengths)) if lengths else float("nan"),
    )


def make_results(records: Records, problems: Mapping[str, Any], pass_at: Sequence[int] = ()) -> dict[str, Any]:
    """All numbers of an evaluation as one tree of plain values.

    Args:
        problems: of each benchmark, as the header has them. pass_at: see `Evaluate`.
    """
    groups = [
        dict(zip(GROUP, group, strict=True))
        | summary(found, records.alone(group), [k for k in pass_at if k == 1 or group[3] == "sampled"])
        for group, found in records.groups.items()
    ]
    changes = [
        dict(zip(GROUP, group, strict=True)) | {"against": against} | paired(records, group, against)
        for group in records.groups
        for against in [_compared_with(group[1])]
        if (group[0], against, *group[2:]) in records.groups
    ]
    return {"problems": dict(problems), "groups": groups, "differences": changes}


def _compared_with(source: str) -> str:
    """An audit is compared with what it changed, a trained planner with the untrained one; "" for others."""
    base, _, audit = source.partition("/")
    if audit:
        return base
    return UNTRAINED if is_trained(source) else ""


def is_trained(source: str) -> bool:
    """Whether a source is a trained planner."""
    return "/" not in source and source not in (NONE, REFERENCE, UNTRAINED)


def paired(records: Records, group: Group, against: str) -> dict[str, Any]:
    """Paired differences of a group to another source before the same executor."""
    benchmark, _, executor, mode = group
    here, there = records.groups[group], records.groups[benchmark, against, executor, mode]
    return {
        "accuracy": difference(here.accuracy - there.accuracy),
        "likelihood": mean(here.means(here.likelihood) - there.means(there.likelihood)),
        "score": mean(here.means(here.score) - there.means(there.score)),
    }
