"""All that a page shows, as plain values."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tracelift_jax.groups.schema import CODE_DIMENSIONS, MATH_DIMENSIONS
from tracelift_jax.report.decompose import by_step, decompose, reward_config
from tracelift_jax.report.differences import NOTHING, differences, flat
from tracelift_jax.report.marks import Measured, first_wrong, flags, is_dial
from tracelift_jax.report.pack import Floats, Strings
from tracelift_jax.report.runs import Column, Record, Run
from tracelift_jax.report.sample import Group, Shown
from tracelift_jax.rollout.reward_config import CodeRewardConfig

FLOATS = ("uplift", "likelihood", "baseline_likelihood", "total", "score", "reward", "advantage")
_LETTERS = {"ok": "o", "wrong": "w", "failed": "f"}


def payload(runs: Sequence[Run], shown: Sequence[Shown]) -> tuple[dict[str, Any], Floats]:
    """The header and the columns of floats of a page's data, see `pack`."""
    strings = Strings()
    traces = _Traces(strings)
    described = []
    for number, (run, some) in enumerate(zip(runs, shown, strict=True)):
        described.append(_describe(run, some) | traces.add(number, run, some.groups))
    header = {
        "runs": described,
        "differences": [
            {"path": path, "values": [_written(value) for value in values]}
            for path, values in differences([run.config for run in runs])
        ],
        "rubrics": {"math": MATH_DIMENSIONS, "code": CODE_DIMENSIONS},
        "groups": traces.groups,
        "traces": traces.whole,
        "strings": strings.all(),
    }
    return header, traces.floats


def _describe(run: Run, shown: Shown) -> dict[str, Any]:
    return {
        "name": run.name,
        "command": run.command,
        "steps": run.steps,
        "last_step": run.last_step,
        "notes": [*run.notes, *shown.notes],
        "metrics": {name: _column(column) for name, column in sorted(run.metrics.items())},
        "config": {path: _written(value) for path, value in flat(run.config).items()},
        "gin": run.gin,
        "traces_shown": shown.traces,
    }


def _column(column: Column) -> dict[str, Any]:
    return {"steps": column.steps, "values": column.values}


def _written(value: Any) -> str | None:
    return None if value is NOTHING else json.dumps(value, ensure_ascii=False)


class _Traces:
    """Columns over all traces, and over their groups, of all runs."""

    def __init__(self, strings: Strings) -> None:
        self._strings = strings
        names = ("run", "step", "problem_id", "problem", "reference", "first", "size", "program", "rubric")
        self.groups: dict[str, list[Any]] = {name: [] for name in names}
        names = (
            "trace", "reasoning", "tokens", "flags", "faithful", "mark", "answers", "verdicts", "without",
            "outcomes", "tests", "with_counts", "without_counts",
        )  # fmt: skip
        self.whole: dict[str, list[Any]] = {name: [] for name in names}
        rubric = [f"rubric{label}" for label in range(len(MATH_DIMENSIONS))]
        self.floats: dict[str, list[float]] = {name: [] for name in (*FLOATS, *rubric, "outcome_part", "quality_part")}
        self.floats["coefficient"] = []

    def add(self, run: int, config: Run, groups: Sequence[Group]) -> dict[str, Any]:
        """Adds a run's traces; returns what else is to be said of the run."""
        measured, reward = Measured.of(config.config), reward_config(config.config)
        records = [record for group in groups for record in group.records]
        told: dict[str, Any] = {
            "measured": {"uplift": measured.uplift, "grade": measured.grade},
            "oracle": any("faithful" in record for record in records),
            "reward": None,
            "parts": None,
            "weights": sorted({(role, mark) for record in records for role, mark in record.get("weights", {}).items()}),
        }
        for group in groups:
            self._add_group(run, group)
            for record in group.records:
                self._add_record(record, measured)
        nan = [float("nan")] * len(records)
        if reward is None or not records:
            self._extend(outcome_part=nan, quality_part=nan, coefficient=nan)
            return told
        parts = decompose(records, reward)
        worth = nan if parts.coefficient is None else parts.coefficient.tolist()
        self._extend(outcome_part=parts.outcome.tolist(), quality_part=parts.quality.tolist(), coefficient=worth)
        said = {"kind": reward.kind, "shaping": reward.shaping, "malformed": reward.malformed}
        if isinstance(reward, CodeRewardConfig):
            said |= {"weight": reward.weight, "clip": reward.clip_reward, "exec_style": reward.exec_style}
        return told | {"reward": said, "parts": by_step(groups, parts)}

    def _extend(self, **columns: Iterable[float]) -> None:
        for name, values in columns.items():
            self.floats[name].extend(values)

    def _add_group(self, run: int, group: Group) -> None:
        record, place = group.records[0], self._strings.place
        program = "outcomes" in record
        row = {
            "run": run,
            "step": group.step,
            "problem_id": place(record["problem_id"]),
            "problem": place(record["problem"]),
            "reference": place(record["reference"]),
            "first": len(self.whole["trace"]),
            "size": len(group.records),
            "program": int(program),
            # Records do not name their rubric: programs have that of code, but for the dial's, whose reasoning is sums.
            "rubric": "code" if program and not is_dial(record) else "math",
        }
        _append(self.groups, row)

    def _add_record(self, record: Record, measured: Measured) -> None:
        place = self._strings.place
        mark = first_wrong(record)
        faithful = record.get("faithful")
        row = {
            "trace": record["trace"],
            "reasoning": place(record["reasoning"]),
            "tokens": len(record.get("trace_tokens", ())),
            "flags": int(flags(record, measured)),
            "faithful": -1 if faithful is None else int(faithful),
            "mark": mark and [*_units(record["reasoning"], mark.begin, mark.end), mark.step, place(mark.expected)],
            "answers": [place(text) for text in record["answers"]],
            "verdicts": "".join(_LETTERS[verdict] for verdict in record["verdicts"]),
            "without": [place(text) for text in record["without_answers"]],
            "outcomes": [place(outcome) for outcome in record.get("outcomes", ())],
            "tests": record.get("tests", []),
            "with_counts": record["with_counts"],
            "without_counts": record["without_counts"],
        }
        _append(self.whole, row)
        self._extend(**{name: [record[name]] for name in FLOATS})
        self._extend(**{f"rubric{label}": [value] for label, value in enumerate(record["rubric"])})


def _append(columns: Mapping[str, list[Any]], row: Mapping[str, Any]) -> None:
    for name, values in columns.items():
        values.append(row[name])


def _units(text: str, *places: int) -> list[int]:
    """Places in a text as a browser counts them, in UTF-16."""
    return [len(text[:place].encode("utf-16-le", "surrogatepass")) // 2 for place in places]
