"""What run directories hold, read for a report. The run may still go on, and may lack any part."""

import dataclasses
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tracelift_jax.errors import UserError

MOST_ROWS = 4000
"""Steps whose metrics a page shows at most, of each run; evaluations are always all there."""

COMMANDS = {"Train": "train", "TrainRm": "train-rm", "Sft": "sft"}
_STEP_FILE = re.compile(r"step_(\d+)(?:-(\d+)-of-(\d+))?\.jsonl")
_EVALUATION = ("eval/", "held_out/")

Record = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Column:
    """One metric over a run; what is not finite is None.

    Attributes:
        steps: in ascending order. values: one a step.
    """

    steps: tuple[int, ...]
    values: tuple[float | None, ...]


@dataclasses.dataclass(frozen=True)
class Run:
    """A run directory.

    Attributes:
        path: of it. name: short, and no other run's in the report.
        config: the experiment as `config.json` has it. gin: the operative configuration, "" if there is none.
        metrics: name to column. last_step: the last with metrics.
        traces: step to its files, one of each process.
        notes: what a reader should know, a sentence each.
    """

    path: Path
    name: str
    config: Mapping[str, Any]
    gin: str
    metrics: Mapping[str, Column]
    last_step: int
    traces: Mapping[int, Sequence[Path]]
    notes: tuple[str, ...]

    @property
    def command(self) -> str:
        """What made it: "train", "train-rm" or "sft"; else the name of the experiment's class."""
        made = str(self.config.get("__class__", "a run"))
        return COMMANDS.get(made, made)

    @property
    def steps(self) -> int | None:
        """How many steps it is to have; None if its configuration does not say."""
        planned = self.config.get("schedule")
        steps = planned.get("steps") if isinstance(planned, Mapping) else None
        return steps if isinstance(steps, int) else None


def read_run(path: Path, name: str) -> Run:
    """Reads all of a run directory but its traces.

    Raises:
        UserError: there is none, or what is in it is broken.
    """
    if not path.is_dir():
        raise UserError(f"{path}: no such directory; give a run directory of train, train-rm or sft")
    described, operative = path / "config.json", path / "config.gin"
    if not described.is_file():
        raise UserError(f"{path}: has no config.json, so it is no run directory of train, train-rm or sft")
    try:
        config = json.loads(described.read_text())
    except ValueError as error:
        raise UserError(f"{described}: not JSON ({error})") from error
    if not isinstance(config, dict):
        raise UserError(f"{described}: expected an object, which describes an experiment")
    rows = list(read_lines(path / "metrics.jsonl")) if (path / "metrics.jsonl").exists() else []
    for number, row in enumerate(rows, 1):
        if type(row.get("step")) is not int:
            raise UserError(f"{path / 'metrics.jsonl'}:{number}: has no step")
    last = max((row["step"] for row in rows), default=0)
    kept, notes = _thinned(rows)
    run = Run(
        path=path,
        name=name,
        config=config,
        gin=operative.read_text() if operative.is_file() else "",
        metrics=_columns(kept),
        last_step=last,
        traces=_trace_files(path / "traces"),
        notes=tuple(notes),
    )
    if run.steps is not None and last < run.steps:
        state = f"It has done {last} of {run.steps} steps: it still goes on, or was stopped."
        run = dataclasses.replace(run, notes=(state, *run.notes))
    return run


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """`read_run` of each, under names that tell them apart.

    Raises:
        UserError: as `read_run`; or a directory is given twice.
    """
    whole = [path.resolve() for path in paths]
    for path, resolved in zip(paths, whole, strict=True):
        if whole.count(resolved) > 1:
            raise UserError(f"{path}: given twice")
    return [read_run(path, name) for path, name in zip(paths, _names(whole), strict=True)]


def read_lines(file: Path) -> Iterator[Record]:
    """The objects of a JSON Lines file; a last line without its end is still being written, and is passed over.

    Raises:
        UserError: another line is no object.
    """
    lines = file.read_text().split("\n")
    for number, line in enumerate(lines[:-1], 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{file}:{number}: not JSON ({error})") from error
        if not isinstance(row, dict):
            raise UserError(f"{file}:{number}: expected an object")
        yield row


def _names(paths: Sequence[Path]) -> list[str]:
    """As many last parts of each path as tell them all apart."""
    depth = 1
    while len(set(names := ["/".join(path.parts[-depth:]) for path in paths])) < len(paths):
        depth += 1
    return names


def _thinned(rows: Sequence[Record]) -> tuple[list[Record], list[str]]:
    """All rows with evaluations, and evenly chosen others; and what to say of it."""
    plain = [row for row in rows if not _evaluates(row)]
    if len(plain) <= MOST_ROWS:
        return list(rows), []
    chosen = {id(plain[index]) for index in even(len(plain), MOST_ROWS)}
    kept = [row for row in rows if _evaluates(row) or id(row) in chosen]
    return kept, [f"Its curves show {MOST_ROWS} of its {len(plain)} steps, evenly chosen."]


def _evaluates(row: Record) -> bool:
    return any(name.startswith(_EVALUATION) for name in row)


def _columns(rows: Sequence[Record]) -> dict[str, Column]:
    found: dict[str, dict[int, float | None]] = {}
    for row in rows:
        for name, value in row.items():
            if name != "step" and (value is None or isinstance(value, int | float)):
                finite = value is not None and math.isfinite(value)
                found.setdefault(name, {})[row["step"]] = value if finite else None
    return {name: Column(*map(tuple, zip(*sorted(steps.items()), strict=True))) for name, steps in found.items()}


def _trace_files(folder: Path) -> dict[int, list[Path]]:
    found: dict[int, list[Path]] = {}
    for file in sorted(folder.glob("step_*.jsonl")) if folder.is_dir() else []:
        named = _STEP_FILE.fullmatch(file.name)
        if named:
            found.setdefault(int(named[1]), []).append(file)
    return dict(sorted(found.items()))


def even(count: int, most: int) -> list[int]:
    """At most `most` of the indices 0 .. count - 1, evenly spread, the first and the last among them."""
    if most >= count:
        return list(range(count))
    if most == 1:
        return [count - 1]
    return [round(place * (count - 1) / (most - 1)) for place in range(most)]
