"""The tables of docs/study.md."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import study_measures as measures
from study_plan import ARMS, BASELINE, REGIMES, Study
from study_signal import REWARDS, rank, read_traces, reward
from study_stats import Estimate, Times, over_seeds, over_seeds_and_problems, sign_flips, sooner, summarize_times

TRACES = 128
"""A step's: 16 problems, 8 traces each (../planner.gin)."""
HEADS = {
    "accuracy": "accuracy",
    "faithful": "faithful",
    "wrong_reason": "right for the wrong reason",
    "uplift": "uplift",
    "unseen": "unseen executor",
}
Measured = Mapping[tuple[str, int], dict[str, np.ndarray]]
"""What was measured, float [P] each, by arm and seed."""


def cell(estimate: Estimate, signed: bool = False) -> str:
    """A value with its interval."""
    plus = "+" if signed else ""
    if math.isnan(estimate.low):
        return f"{estimate.value:{plus}.3f}"
    return f"{estimate.value:{plus}.3f} ({estimate.low:{plus}.3f}, {estimate.high:{plus}.3f})"


def time_cell(times: Times, end: int) -> str:
    """A median with its range; what is censored at `end` is longer than that."""

    def shown(time: float | None) -> str:
        return f"> {end:,}" if time is None else f"{time:,.0f}"

    if times.n == 1:
        return shown(times.median)
    reached = "" if times.known == times.n else f"; {times.known} of {times.n} got there"
    return f"{shown(times.median)} ({shown(times.least)} to {shown(times.most)}{reached})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table, numbers on the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def finished(study: Study, regime: str, arms: Sequence[str], seeds: int) -> list[tuple[str, int]]:
    """The arms and seeds that have been measured."""
    return [
        (arm, seed)
        for seed in range(seeds)
        for arm in arms
        if study.training(regime, arm, seed).stamp.exists() and study.measurement(regime, arm, seed).stamp.exists()
    ]


def arms_table(study: Study, regime: str, measured: Measured, before: Mapping[str, np.ndarray]) -> str:
    """A row for each arm: means over its seeds, and how long it took to learn."""
    end = study.settings.steps * TRACES
    untrained = [f"{np.mean(before[name]):.3f}" for name in HEADS]
    rows = [["before training", "", *untrained, "", ""]]
    for arm, label in ARMS.items():
        seeds = [seed for known, seed in measured if known == arm]
        if not seeds:
            continue
        means = [over_seeds([measured[arm, seed][name].mean() for seed in seeds]) for name in HEADS]
        learnt = [measures.learning(study.run(regime, arm, seed), TRACES) for seed in seeds]
        times = [summarize_times([getattr(one, name) for one in learnt]) for name in ("accuracy", "faithful")]
        rows.append([label, str(len(seeds)), *map(cell, means), *(time_cell(one, end) for one in times)])
    head = ["arm", "seeds", *HEADS.values(), "traces to 0.9 accuracy", "traces to 0.9 faithful"]
    return table(head, rows)


def differences_table(study: Study, regime: str, measured: Measured) -> str:
    """Each arm less execution only, on the same seeds and problems."""
    rows = []
    for arm, label in ARMS.items():
        shared = [seed for known, seed in measured if known == arm and (BASELINE, seed) in measured]
        if arm == BASELINE or not shared:
            continue
        for name, head in HEADS.items():
            d = np.array([measured[arm, seed][name] - measured[BASELINE, seed][name] for seed in shared])
            low, high = over_seeds_and_problems(d)
            crossed = f"({low:+.3f}, {high:+.3f})"
            p = f"{sign_flips(d.mean(1)):.3f}"
            rows.append([label, head, str(len(shared)), cell(over_seeds(d.mean(1)), signed=True), crossed, p])
        a, b = ([measures.learning(study.run(regime, one, seed), TRACES) for seed in shared] for one in (arm, BASELINE))
        for name in ("accuracy", "faithful"):
            first, second, p = sooner([getattr(x, name) for x in a], [getattr(x, name) for x in b])
            told = f"sooner {first}, later {second}"
            rows.append([label, f"traces to 0.9 {name}", str(len(shared)), told, "", f"{p:.3f}"])
    if not rows:
        return "No seed is in yet that another arm shares with execution only."
    head = ["arm less execution only", "of", "seeds", "difference, over seeds", "over seeds and problems", "p"]
    return table(head, rows)


def executors_table(before: Mapping[str, Sequence[measures.Row]]) -> str:
    """What each regime's executors make of what they read, before any training."""
    what = {
        "alone": lambda rows, executor: measures.alone(rows, "none", executor),
        "true reasoning": lambda rows, executor: measures.alone(rows, "reference", executor),
        "another problem's": lambda rows, executor: measures.alone(rows, "reference/other", executor),
        "the bare answer": lambda rows, executor: measures.alone(rows, "reference/answer_only", executor),
        "faithful traces": lambda rows, executor: measures.behind(rows, executor, True),
        "unfaithful traces": lambda rows, executor: measures.behind(rows, executor, False),
    }
    rows = [
        [
            f"{regime} regime: {label}",
            *(f"{value(found, executor):.3f}" for value in what.values()),
        ]
        for regime, found in before.items()
        for executor, label in (("resident", "executor of training"), ("unseen", "unseen executor"))
    ]
    return table(["executor", *what], rows)


def signal_table(before: Mapping[str, Sequence[measures.Row]]) -> str:
    """How each reward ranks the traces that training starts from."""
    rows = []
    for regime, found in before.items():
        traces = read_traces(found)
        for arm, config in REWARDS.items():
            ranking = rank(reward(traces, config), traces.faithful)
            cells = [cell(ranking.above), f"{ranking.tied:.3f}", f"{ranking.correlation:.3f}", str(ranking.above.n)]
            rows.append([regime, ARMS[arm], *cells])
    return table(["regime", "reward", "faithful above unfaithful", "tied", "correlation", "problems"], rows)


def put(page: str, name: str, text: str) -> str:
    """The page with `text` between the markers of `name`.

    Raises:
        ValueError: a marker is missing.
    """
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"the page has no {begin.strip()} ... {end}")
    return f"{before}{begin}{text}\n{end}{after}"


def done_when(stamps: Sequence[Path]) -> str:
    """On what and when the jobs of the stamps were done; not in how long, for other work may have been beside them."""
    told = [json.loads(stamp.read_text()) for stamp in stamps if stamp.exists()]
    if not told:
        return "Nothing is done yet"
    dates = sorted({one["date"] for one in told})
    days = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return f"{', '.join(sorted({one['machine'] for one in told}))}, {days}"


def report(study: Study, regimes: Sequence[str], arms: Sequence[str], seeds: int) -> str:
    """All tables that can be made of what is there."""
    records = {
        regime: measures.read_rows(study.before(regime) / "records.jsonl")
        for regime in regimes
        if study.baseline(regime).stamp.exists()
    }
    when = done_when([job.stamp for job in study.jobs(regimes, arms, seeds)])
    parts = [f"{when}; {study.settings.steps} steps, {study.settings.problems} held-out problems, 4 traces each."]
    if records:
        parts += ["### The executors", executors_table(records)]
    for regime, rows in records.items():
        done = finished(study, regime, arms, seeds)
        parts.append(f"### {REGIMES[regime]}")
        parts.append(f"{len(done)} of {len(arms) * seeds} runs are in.")
        if not done:
            continue
        measured = {
            (arm, seed): measures.by_problem(
                measures.read_rows(study.measured(regime, arm, seed) / "records.jsonl"), f"seed{seed}"
            )
            for arm, seed in done
        }
        parts.append(arms_table(study, regime, measured, measures.by_problem(rows, "untrained")))
        parts.append(differences_table(study, regime, measured))
    if records:
        parts += ["### What each reward sees before any training", signal_table(records)]
    return "\n\n".join(parts)
