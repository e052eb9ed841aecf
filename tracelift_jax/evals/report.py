"""What an evaluation found, as text: `report.md`."""

from collections.abc import Callable, Iterator

from tracelift_jax.evals.experiment import NONE, UNTRAINED
from tracelift_jax.evals.results import is_trained
from tracelift_jax.evals.view import Result, View
from tracelift_jax.train.trust_report import interval, number, table

FEW_PROBLEMS = 100
LEAKY = 0.05
BADLY_FORMED = 0.05
MANY_FAILED = 0.01
"""What is worth a sentence: fewer problems; more leaks, malformed traces or missing answers than these."""


def markdown(results: Result) -> str:
    """The report; every number in it is one of `results`, to three decimals."""
    view = View(results)
    parts = [
        "# Evaluation\n",
        "In brackets: 95 % intervals over problems. Greedy: one greedy trace, one greedy answer. Sampled: the mean of "
        "all samples, pass@1. Uplift: what the reasoning adds for the same executor, by its answers and by its "
        "probability of the reference answer. `a/b` is the reasoning of a after the audit b.\n",
        "## What to watch for\n",
        "".join(f"- {sentence}\n" for sentence in findings(view)),
    ]
    for benchmark in view.benchmarks:
        parts.append(f"## {benchmark}: {view.evaluated(benchmark)} problems\n")
        for executor in view.executors:
            if len(view.executors) > 1:
                parts.append(f"### {benchmark}, executor {executor}\n")
            parts.append(_accuracy(view, benchmark, executor))
            parts += filter(None, [_passes(view, benchmark, executor), _differences(view, benchmark, executor)])
        parts.append(_reasoning(view, benchmark))
    return "\n".join([*parts, "![right answers by source of reasoning](report.png)\n"])


def _accuracy(view: View, benchmark: str, executor: str) -> str:
    last = view.modes[-1]
    head = ["", *(f"right, {mode}" for mode in view.modes), *(f"uplift, {mode}" for mode in view.modes)]
    rows = []
    for source in view.sources_of(benchmark):
        right, uplift = (view.by_mode(benchmark, source, executor, name) for name in ("accuracy", "uplift"))
        group = view.last(benchmark, source, executor)
        cells = [*right, *uplift, group["likelihood"], group["uplift_likelihood"]]
        rows.append([source, *(interval(dict(cell)) for cell in cells)])
    return table([*head, f"likelihood, {last}", f"uplift by likelihood, {last}"], rows)


def _passes(view: View, benchmark: str, executor: str) -> str:
    """pass@k, where it was asked for."""
    columns = view.passes()
    rows = [
        [source, *(interval(dict(value)) for value in view.passed(benchmark, source, executor))]
        for source in view.sources_of(benchmark)
    ]
    return table(["pass@k", *(f"pass@{k}, {mode}" for mode, k in columns)], rows) if columns else ""


def _differences(view: View, benchmark: str, executor: str) -> str:
    """Trained planners less the untrained one, and audits less what they changed, on the same problems."""
    last = view.modes[-1]
    rows = []
    for source in view.sources_of(benchmark):
        change = view.changes.get((benchmark, source, executor, last))
        if change:
            right = view.change_by_mode(benchmark, source, executor, "accuracy")
            cells = [*right, change["likelihood"], change["score"]]
            rows.append([f"{source} less {change['against']}", *map(interval, cells)])
    head = ["paired difference", *(f"right, {mode}" for mode in view.modes), f"likelihood, {last}", f"RM score, {last}"]
    return table(head, rows) if rows else ""


def _reasoning(view: View, benchmark: str) -> str:
    """What the reasoning itself is like, in the last mode; outcomes are those before the first executor."""
    columns: list[tuple[str, Callable[[Result], str]]] = [
        ("well formed", lambda g: interval(g["well_formed"])),
        ("leaks", lambda g: interval(g["leak"])),
        ("RM score", lambda g: interval(g["score"])),
        ("where right", lambda g: number(g["score_right"])),
        ("where wrong", lambda g: number(g["score_wrong"])),
        ("tokens", lambda g: tokens(g["tokens"]["mean"])),
        ("median", lambda g: tokens(g["tokens"]["p50"])),
        ("95 % below", lambda g: tokens(g["tokens"]["p95"])),
    ]
    shown = [source for source in view.sources_of(benchmark) if source != NONE]
    groups = [view.last(benchmark, source, view.executors[0]) for source in shown]
    if any(group["faithful"]["value"] is not None for group in groups):
        columns[2:2] = [
            ("faithful", lambda g: interval(g["faithful"])),
            ("right, unfaithful", lambda g: interval(g["wrong_reason"])),
        ]
    rows = [[source, *(cell(group) for _, cell in columns)] for source, group in zip(shown, groups, strict=True)]
    of = view.modes[-1] + (f", {view.executors[0]}" if len(view.executors) > 1 else "")
    return table([f"reasoning, {of}", *(name for name, _ in columns)], rows) if rows else ""


def tokens(value: float | None) -> str:
    """A number of tokens."""
    return "-" if value is None else f"{value:.1f}"


# --- Sentences --------------------------------------------------------------------------------------------------------


def findings(view: View) -> list[str]:
    """What a reader should know before believing a table, a sentence each; never empty."""
    out = [*_about_problems(view), *_about_groups(view), *_about_planners(view), *_about_audits(view)]
    return out or ["Nothing stands out in these numbers."]


def _about_problems(view: View) -> Iterator[str]:
    for name, about in view.results["problems"].items():
        count = view.evaluated(name)
        if count < FEW_PROBLEMS:
            yield f"{name}: only {count} problems; the intervals matter more than the values."
        if about["left_out"]:
            yield (
                f"{name}: {about['left_out']} of {about['problems']} problems did not fit, or lack tests, and are in "
                "no number."
            )
        if about["baseline"]:
            yield f"{name}: the executor alone, sampled, is as {about['baseline']} has it."
        if about["without_reference"]:
            yield f"{name}: {about['without_reference']} problems have no reference reasoning, and are not in its rows."


def _about_groups(view: View) -> Iterator[str]:
    for (benchmark, source, executor, mode), group in view.groups.items():
        where = f"{benchmark}, {executor}, {source}, {mode}"
        if group["failed"] > MANY_FAILED * group["answers"]:
            yield f"{where}: {group['failed']} of {group['answers']} answers never came or could not be judged."
        if group["disagreed"]:
            yield (
                f"{where}: the readers on device and host disagree on {group['disagreed']} of {group['compared']} "
                "answers; the host's verdict counts."
            )
        if group["cut"]:
            yield f"{where}: {group['cut']} of {group['traces']} traces were cut to fit the executor."
        if executor == view.executors[0] and "/" not in source and source != NONE:
            if group["leak"]["value"] > LEAKY:
                yield f"{where}: {interval(group['leak'])} of the traces state the final answer."
            if group["well_formed"]["value"] < 1 - BADLY_FORMED:
                yield f"{where}: only {interval(group['well_formed'])} of the traces are well formed."


def _about_planners(view: View) -> Iterator[str]:
    for (benchmark, source, executor, mode), change in view.changes.items():
        if is_trained(source):
            moved = change["accuracy"]
            above = moved["low"] is not None and moved["low"] > 0
            verdict = "is better than" if above else "is worse than" if _is_below(moved) else "cannot be told from"
            yield f"{benchmark}, {executor}, {mode}: {source} {verdict} {UNTRAINED} ({interval(moved)})."


_NOT_TOLD = "makes no difference that these problems could show"
_AUDITS = {
    "shuffled": ("steps in another order cost right answers", f"the order of steps {_NOT_TOLD}"),
    "truncated": ("half of the steps are worth less than all", f"the second half of the steps {_NOT_TOLD}"),
    "other": (
        "another problem's reasoning costs right answers",
        f"whose problem the reasoning is of {_NOT_TOLD}: the executor does not use it",
    ),
    "answer_only": (
        "the final number alone is worth less than the reasoning",
        f"what stands before the final number {_NOT_TOLD}: the executor can do without following it",
    ),
}
"""What is said of an audit that costs accuracy, and of one that does not."""


def _about_audits(view: View) -> Iterator[str]:
    """What each change to the reasoning did to each executor, in the first mode."""
    for (benchmark, source, executor, mode), change in view.changes.items():
        base, _, audit = source.partition("/")
        if not audit or mode != view.modes[0]:
            continue
        moved, who = change["accuracy"], f"{benchmark}, {executor}, {base}"
        yield f"{who}: {_AUDITS[audit][0 if _is_below(moved) else 1]} ({interval(moved)})."
        if audit == "other" and _is_below(view.groups[benchmark, source, executor, mode]["uplift"]):
            yield f"{who}: with another problem's reasoning it does worse than alone: it believes what it reads."


def _is_below(value: Result) -> bool:
    return value["high"] is not None and value["high"] < 0
