"""The tables of docs/study.md."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from study_plan import ARMS, ARMS_OF, BASELINE, REGIMES, Study
from study_results import READ, TRACES, Before, Run, read_before, read_run
from study_signal import REWARDS, rank, reward
from study_stats import MOST, Estimate, Times, over_seeds, over_seeds_and_problems, sign_flips, sooner, summarize_times

HEADS = {
    "accuracy": "accuracy",
    "faithful": "faithful",
    "wrong_reason": "right for the wrong reason",
    "uplift": "uplift",
    "unseen": "unseen executor",
}
PAIRS = (
    ("tracelift", "tracelift_paper"),
    ("sampled_sign_aware", "tracelift_paper"),
    ("likelihood_product", "tracelift_paper"),
    ("tracelift", "uplift_only"),
    ("rm_only", "tracelift"),
)
LEAST = 40
"""Problems that a share in a table is of."""
Runs = Mapping[tuple[str, int], Run]
"""By arm and seed."""


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


def finished(study: Study, regime: str, arms: Sequence[str]) -> dict[tuple[str, int], Run]:
    """What has been trained and measured, by arm and seed."""
    files = {(arm, seed): study.result(regime, arm, seed) for seed in range(MOST) for arm in arms}
    return {which: read_run(file) for which, file in files.items() if file.exists()}


def arms_table(runs: Runs, untrained: Mapping[str, np.ndarray], end: int) -> str:
    """A row for each arm: means over its seeds, and how long it took to learn, of `end` traces at most."""
    before = [f"{np.mean(untrained[name]):.3f}" for name in HEADS]
    rows = [["before training", "", *before, "", ""]]
    for arm, label in ARMS.items():
        own = [run for (known, _), run in runs.items() if known == arm]
        if not own:
            continue
        means = [over_seeds([run.measured[name].mean() for run in own]) for name in HEADS]
        times = [summarize_times([getattr(run.learnt, name) for run in own]) for name in ("accuracy", "faithful")]
        rows.append([label, str(len(own)), *map(cell, means), *(time_cell(one, end) for one in times)])
    head = ["arm", "seeds", *HEADS.values(), "traces to 0.9 accuracy", "traces to 0.9 faithful"]
    return table(head, rows)


def differences_table(runs: Runs) -> str:
    """Each arm less execution only, on the same seeds and problems."""
    rows = []
    for arm, label in ARMS.items():
        shared = [seed for known, seed in runs if known == arm and (BASELINE, seed) in runs]
        if arm == BASELINE or not shared:
            continue
        mine, others = ([runs[one, seed] for seed in shared] for one in (arm, BASELINE))
        rows += [[label, head, *_difference(mine, others, name)] for name, head in HEADS.items()]
        for name in ("accuracy", "faithful"):
            first, second, p = sooner(*([getattr(run.learnt, name) for run in some] for some in (mine, others)))
            told = f"sooner {first}, later {second}"
            rows.append([label, f"traces to 0.9 {name}", str(len(shared)), told, "", f"{p:.3f}"])
    if not rows:
        return "No seed is in yet that another arm shares with execution only."
    head = ["arm less execution only", "of", "seeds", "difference, over seeds", "over seeds and problems", "p"]
    return table(head, rows)


def _difference(mine: Sequence[Run], others: Sequence[Run], name: str) -> list[str]:
    """Cells: number of seeds, difference over them, over seeds and problems, p."""
    d = np.array([a.measured[name] - b.measured[name] for a, b in zip(mine, others, strict=True)])
    low, high = over_seeds_and_problems(d)
    p = sign_flips(d.mean(1))
    return [str(len(d)), cell(over_seeds(d.mean(1)), signed=True), f"({low:+.3f}, {high:+.3f})", f"{p:.3f}"]


def pairs_table(runs: Runs) -> str:
    """Faithful shares, arm less arm, where an explanation is about two of them."""
    rows = []
    for arm, other in PAIRS:
        shared = [seed for known, seed in runs if known == arm and (other, seed) in runs]
        if shared:
            mine, others = ([runs[one, seed] for seed in shared] for one in (arm, other))
            rows.append([f"{ARMS[arm]}, less {ARMS[other]}", *_difference(mine, others, "faithful")])
    return table(["faithful traces", "seeds", "difference, over seeds", "over seeds and problems", "p"], rows)


def executors_table(before: Mapping[str, Before]) -> str:
    """What each regime's executors make of what they read, before any training."""
    rows = [
        [f"{regime} regime: {label}", *(f"{found.executors[executor][what]:.3f}" for what in READ)]
        for regime, found in before.items()
        if regime != "rough"  # its executors are those of the strong one
        for executor, label in (("resident", "executor of training"), ("unseen", "unseen executor"))
    ]
    return table(["executor", *READ], rows)


def solved_table(before: Mapping[str, Before], runs: Mapping[str, Runs]) -> str:
    """The share of faithful traces where the executor solves the problem alone, and where it does not."""
    rows = []
    for regime, found in before.items():
        halves = (found.solved, ~found.solved)
        if min(half.sum() for half in halves) < LEAST:
            continue
        start = [f"{found.untrained['faithful'][half].mean():.3f}" for half in halves]
        rows.append([regime, "before training", "", *start])
        for arm, label in ARMS.items():
            own = [run.measured["faithful"] for (known, _), run in runs[regime].items() if known == arm]
            if own:
                cells = [cell(over_seeds([faithful[half].mean() for faithful in own])) for half in halves]
                rows.append([regime, label, str(len(own)), *cells])
    return table(["regime", "arm", "seeds", "faithful, solved alone", "faithful, others"], rows)


def signal_table(before: Mapping[str, Before], runs: Mapping[str, Runs]) -> str:
    """How each reward ranks the traces that training starts from, and what share is faithful where it ends."""
    rows = []
    for regime, found in before.items():
        for arm in ARMS_OF[regime]:
            config = REWARDS[arm]
            ranking = rank(reward(found.traces, config), found.traces.faithful)
            cells = [cell(ranking.above), f"{ranking.tied:.3f}", f"{ranking.correlation:.3f}", str(ranking.above.n)]
            after = [run.measured["faithful"].mean() for (known, _), run in runs[regime].items() if known == arm]
            rows.append([regime, ARMS[arm], *cells, f"{np.mean(after):.3f}" if after else ""])
    head = ["faithful above unfaithful", "tied", "correlation", "problems", "faithful after training"]
    return table(["regime", "reward", *head], rows)


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


def done_when(told: Sequence[Mapping[str, Any]]) -> str:
    """On what and when it was done; not in how long, for other work may have been beside it."""
    if not told:
        return "Nothing is done yet"
    dates = sorted({one["date"] for one in told})
    days = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return f"{', '.join(sorted({one['machine'] for one in told}))}, {days}"


def report(study: Study, regimes: Sequence[str], arms: Sequence[str], seeds: int) -> str:
    """All tables that can be made of the results that are there."""
    files = {regime: study.before_result(regime) for regime in regimes}
    before = {regime: read_before(file) for regime, file in files.items() if file.exists()}
    runs = {regime: finished(study, regime, [arm for arm in arms if arm in ARMS_OF[regime]]) for regime in regimes}
    trained = [json.loads(job.stamp.read_text()) for job in study.models(regimes) if job.stamp.exists()]
    when = done_when(trained + [one.done for some in (before, *runs.values()) for one in some.values()])
    parts = [f"{when}; {study.settings.steps} steps, {study.settings.problems} held-out problems, 4 traces each."]
    if before:
        parts += ["### The executors", executors_table(before)]
    for regime, found in before.items():
        done = runs[regime]
        parts.append(f"### {REGIMES[regime]}")
        asked = len(set(arms) & set(ARMS_OF[regime])) * seeds
        parts.append(f"{len(done)} of {asked} runs are in." if len(done) < asked else f"{len(done)} runs.")
        if done:
            if regime == "rough" and BASELINE in arms:
                done = finished(study, "strong", [BASELINE]) | done
            parts.append(arms_table(done, found.untrained, study.settings.steps * TRACES))
            parts.append(differences_table(done))
            if regime == "strong":
                parts.append(pairs_table(done))
    if before:
        parts += ["### Where faithful traces are", solved_table(before, runs)]
        parts += ["### What each reward sees before any training", signal_table(before, runs)]
    return "\n\n".join(parts)
