"""`tracelift replay`: the rewards of a run computed again from its records, and which of them agree bit for bit."""

import contextlib
import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from tracelift_jax.errors import UserError
from tracelift_jax.replay import rerun
from tracelift_jax.replay.compare import FIELDS, Difference, Remembered, differences, recompute
from tracelift_jax.replay.read import Placed, read_step, recorded_steps
from tracelift_jax.replay.rebuild import Rebuilding
from tracelift_jax.replay.rescore import Rescoring
from tracelift_jax.rollout.reward_config import CodeRewardConfig
from tracelift_jax.rollout.settle import Settling
from tracelift_jax.train.export import run_kind
from tracelift_jax.train.planner_loop import Train
from tracelift_jax.train.run import console

_SHOWN = 10
"""Differences that are listed; --json lists all."""


@dataclasses.dataclass(frozen=True)
class Asked:
    """What `tracelift replay` is to do; see its `--help`."""

    run_dir: str
    steps: Sequence[int] = ()
    rescore: bool = False
    rerun: bool = False
    json: bool = False


@dataclasses.dataclass(frozen=True)
class Replayed:
    """What came out.

    Attributes:
        records: of each step, how many there are. fields: what was recomputed, and from what. found: what differs.
        believed: what was taken as it is recorded, in words.
    """

    records: dict[int, int]
    fields: dict[str, str]
    found: list[Difference]
    believed: tuple[str, ...]

    def agreeing(self, step: int | None = None) -> int:
        """How many records agree in all fields, of one step or of all."""
        wrong = {one.where for one in self.found if step in (None, one.step)}
        return (sum(self.records.values()) if step is None else self.records[step]) - len(wrong)

    @property
    def agree(self) -> bool:
        """Whether all do."""
        return not self.found

    def largest(self, field: str) -> float | None:
        """How far a field's numbers are apart at most."""
        sizes = [size for one in self.found if one.field == field if (size := one.size) is not None]
        return max(sizes, default=None)


def run_replay(load: Callable[[Sequence[str]], Train], asked: Asked) -> bool:
    """Replays and prints what came out.

    Args:
        load: reads gin files into the experiment, with the command line's bindings on top.

    Returns:
        Whether everything agrees.

    Raises:
        UserError: there is no such run or step, its records cannot be used, or its weights are others.
    """
    replayed = replay(load, asked)
    if asked.json:
        print(json.dumps(_as_json(asked, replayed), ensure_ascii=False, indent=1))
    else:
        _show(asked, replayed)
    return replayed.agree


def replay(load: Callable[[Sequence[str]], Train], asked: Asked) -> Replayed:
    """See `run_replay`; prints nothing."""
    run_dir = Path(asked.run_dir)
    if run_kind(run_dir) is not Train:
        raise UserError(f"{run_dir}: no run of `tracelift train`; others have no rewards")
    config = load([str(run_dir / "config.gin")])
    found = recorded_steps(run_dir)
    for step in asked.steps:
        if step not in found:
            raise UserError(f"--step={step}: no records of that step; there are {_ranges(found)}")
    steps = {step: paths for step, paths in found.items() if not asked.steps or step in asked.steps}
    records, out, fields = {}, [], dict(FIELDS)
    with _Replaying(config, asked).opened() as replaying:
        # The first measurement of a baseline must be among what is looked at.
        remembered = Remembered() if list(steps) == list(range(1, len(steps) + 1)) else None
        for step, paths in steps.items():
            groups = read_step(step, paths, config.batch_size, config.roles.traces)
            records[step] = sum(map(len, groups))
            out += replaying(groups, remembered)
        fields |= replaying.fields
    return Replayed(records, fields, out, _believed(config, asked))


def _believed(config: Train, asked: Asked) -> tuple[str, ...]:
    told = (
        ("grades and likelihoods (--rescore)", not asked.rescore),
        ("outcomes of programs (--rerun)", isinstance(config.roles.reward, CodeRewardConfig) and not asked.rerun),
    )
    return tuple(what for what, left in told if left)


class _Replaying:
    """Everything that a step is replayed with."""

    def __init__(self, config: Train, asked: Asked):
        self._config, self._asked = config, asked
        self._rebuild = Rebuilding(config.roles)
        self._settling = Settling(config.roles.reward, config.loss.normalize)
        self._rescoring: Rescoring | None = None
        self._rerunning: rerun.Rerunning | None = None
        self.fields: dict[str, str] = {}

    @contextlib.contextmanager
    def opened(self) -> Iterator["_Replaying"]:
        """With a sandbox, where one is asked for."""
        with contextlib.ExitStack() as stack:
            if self._asked.rerun:
                judge = stack.enter_context(rerun.open_sandbox(self._config.roles))
                self._rerunning = rerun.Rerunning(self._config.roles, judge)
                self.fields |= rerun.FIELDS
            yield self

    def __call__(self, groups: Sequence[Sequence[Placed]], remembered: Remembered | None) -> list[Difference]:
        """Where a step's records differ."""
        rebuilt = self._rebuild(groups)
        expected = recompute(groups, rebuilt, self._settling)
        if remembered is not None:
            remembered.fill(groups, expected)
        found = list(differences(groups, expected))
        if self._asked.rescore:
            if self._rescoring is None:
                self._rescoring = Rescoring(self._config, groups[0][0])
                self.fields |= self._rescoring.fields
            found += differences(groups, self._rescoring(groups, rebuilt))
        if self._rerunning is not None:
            found += differences(groups, self._rerunning(groups))
        return list({(one.where, one.field): one for one in found}.values())


def _as_json(asked: Asked, replayed: Replayed) -> dict[str, Any]:
    differ = Counter(one.field for one in replayed.found)
    return {
        "run": asked.run_dir,
        "records": sum(replayed.records.values()),
        "agree": replayed.agreeing(),
        "steps": {step: {"records": n, "agree": replayed.agreeing(step)} for step, n in replayed.records.items()},
        "fields": {name: {"differ": differ[name], "largest": replayed.largest(name)} for name in replayed.fields},
        "believed": replayed.believed,
        "differences": [dataclasses.asdict(one) for one in replayed.found],
    }


def _show(asked: Asked, replayed: Replayed) -> None:
    differ, all_records = Counter(one.field for one in replayed.found), sum(replayed.records.values())
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("")
    table.add_column("", overflow="fold")
    table.add_column("agree", justify="right")
    table.add_column("differ", justify="right")
    table.add_column("by at most", justify="right")
    for name, how in replayed.fields.items():
        largest = replayed.largest(name)
        count = f"[red]{differ[name]}[/red]" if differ[name] else "0"
        table.add_row(name, how, str(all_records - differ[name]), count, "" if largest is None else f"{largest:.2g}")
    console.print(table, soft_wrap=False)
    for one in replayed.found[:_SHOWN]:
        console.print(f"\n{one.where}  {one.problem_id}, trace {one.trace}: {one.field}", markup=False)
        for what in ("recorded", "recomputed"):
            console.print(f"  {what:<11} {_short(getattr(one, what))}", markup=False)
    if len(replayed.found) > _SHOWN:
        console.print(f"\n{len(replayed.found) - _SHOWN} more differ; --json lists all")
    if replayed.believed:
        console.print(f"\ntaken as recorded: {', '.join(replayed.believed)}")
    steps = len(replayed.records)
    console.print(
        f"\n{asked.run_dir}: {replayed.agreeing()} of {all_records} records of {steps} step{'s' * (steps > 1)} agree "
        "bit for bit",
        markup=False,
    )


def _short(value: Any) -> str:
    line = json.dumps(value, ensure_ascii=False)
    return line if len(line) <= 160 else f"{line[:157]}..."


def _ranges(steps: Sequence[int] | dict[int, Any]) -> str:
    """Numbers in order in few words: "1 to 4, 6"."""
    runs: list[list[int]] = []
    for step in steps:
        if runs and step == runs[-1][-1] + 1:
            runs[-1].append(step)
        else:
            runs.append([step])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)
