"""`tracelift eval --compare A B`: what two evaluations found on the same problems, problem by problem."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from tracelift_jax.checked import first_difference
from tracelift_jax.errors import UserError
from tracelift_jax.evals.journal import Header, to_json, write_whole
from tracelift_jax.evals.metrics import Outcomes, bootstrap, holm, mcnemar
from tracelift_jax.evals.results import Records, is_trained, read_records
from tracelift_jax.train.run import console
from tracelift_jax.train.trust_report import interval, number, table

ALIKE = ("samples", "answers", "temperature", "top_p", "malformed", "answer_only", "reasoning_tokens")
"""What of an experiment must be the same on both sides, besides problems and executors."""
ALL = "all"
"""The name of all benchmarks together, where there are several."""


@dataclasses.dataclass(frozen=True)
class Side:
    """One side of a comparison.

    Attributes:
        name: as it was given. header, records: of the evaluation. source: the one meant; "": all.
    """

    name: str
    header: Header
    records: Records
    source: str

    @property
    def sources(self) -> list[str]:
        """The sources of the evaluation."""
        return list(dict.fromkeys(group[1] for group in self.records.groups))


def find_side(name: str) -> Side:
    """An evaluation, `evals/dial`, or a source in it, `evals/dial/tracelift` or `evals/dial/reference/shuffled`.

    Raises:
        UserError: there is no finished evaluation, or no such source in it.
    """
    path = Path(name)
    for folder in (path, path.parent, path.parent.parent):
        if (folder / "evaluation.json").is_file():
            if not (folder / "results.json").is_file():
                raise UserError(f"{folder}: the evaluation is not finished; run its command again")
            source = path.relative_to(folder).as_posix()
            side = Side(name, Header(folder / "evaluation.json"), read_records(folder / "records.jsonl"), "")
            if source == ".":
                return side
            if source not in side.sources:
                raise UserError(f"{name}: no source {source!r} in {folder}; there are {', '.join(side.sources)}")
            return dataclasses.replace(side, source=source)
    raise UserError(f"{name}: holds no evaluation; make one first: tracelift eval --gin_file=F --run_dir=... --out=DIR")


def pair_sources(a: Side, b: Side) -> list[tuple[str, str]]:
    """Which source of `a` is compared with which of `b`.

    Sources that were named; else those of the same name in both. A trained planner that has no namesake is paired with
    the only one of the other side.

    Raises:
        UserError: there is nothing to compare.
    """
    if a.source and b.source:
        return [(a.source, b.source)]

    def partner(source: str, other: Side) -> str:
        if source in other.sources:
            return source
        trained = [name for name in other.sources if is_trained(name)]
        return trained[0] if is_trained(source) and len(trained) == 1 else ""

    if b.source:
        pairs = [(partner(b.source, a), b.source)]
    else:
        pairs = [(source, partner(source, b)) for source in ([a.source] if a.source else a.sources)]
    pairs = [pair for pair in pairs if all(pair)]
    if not pairs:
        raise UserError(f"{a.name} and {b.name} have no source in common; name one of each: DIR/SOURCE")
    return pairs


def check_alike(a: Side, b: Side) -> None:
    """Refuses evaluations whose difference could come from something else than their reasoning.

    Raises:
        UserError: says what is not the same.
    """

    def matters(side: Side) -> dict[str, Any]:
        parts = side.header.parts
        shared = set(a.header.parts["problems"]) & set(b.header.parts["problems"])
        out = {name: parts["config"][name] for name in ALIKE}
        out["problems of"] = {name: about["sha256"] for name, about in parts["problems"].items() if name in shared}
        return out | {name: value for name, value in parts.items() if name.startswith("executor ")}

    here, there = matters(a), matters(b)
    shared = [name for name in here if name in there]
    difference = first_difference({name: here[name] for name in shared}, {name: there[name] for name in shared})
    if difference:
        raise UserError(f"{a.name} and {b.name} were not evaluated alike ({difference})")


def compare(a: Side, b: Side) -> list[dict[str, Any]]:
    """Paired differences b less a of every benchmark, executor and mode that both have.

    Returns:
        For each: what is compared, `accuracy` and `likelihood` differences with bootstrap intervals, and in the greedy
        mode McNemar's test as `mcnemar`, whose `holm` is p adjusted for all benchmarks of the same pair.

    Raises:
        UserError: they were not evaluated alike, or share nothing.
    """
    check_alike(a, b)
    out: list[dict[str, Any]] = []
    for pair in pair_sources(a, b):
        for executor, mode in dict.fromkeys(group[2:] for group in a.records.groups):
            found = list(_benchmarks(a, b, pair, executor, mode))
            if len(found) > 1:
                parts = zip(*(values for _, values in found), strict=True)
                found.append((ALL, [np.concatenate(part) for part in parts]))
            rows = [_row(name, pair, executor, mode, values) for name, values in found]
            tested = [row["mcnemar"] for row in rows if "mcnemar" in row and row["benchmark"] != ALL]
            for test, adjusted in zip(tested, holm([test["p"] for test in tested]), strict=True):
                test["holm"] = adjusted
            out += rows
    if not out:
        raise UserError(f"{a.name} and {b.name} share no benchmark, executor and mode")
    return out


def _benchmarks(
    a: Side, b: Side, pair: tuple[str, str], executor: str, mode: str
) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Each benchmark that both sides have: accuracies of a and b, likelihoods of a and b, all float [P]."""
    for benchmark in a.records.ids:
        here = a.records.groups.get((benchmark, pair[0], executor, mode))
        there = b.records.groups.get((benchmark, pair[1], executor, mode))
        if here is None or there is None:
            continue
        shared = [problem for problem in a.records.ids[benchmark] if problem in b.records.ids[benchmark]]

        def of(side: Side, outcomes: Outcomes, likelihood: bool, name=benchmark, ids=shared) -> np.ndarray:
            known = side.records.ids[name]
            values = outcomes.means(outcomes.likelihood) if likelihood else outcomes.accuracy
            return values[[known[problem] for problem in ids]]

        yield benchmark, [of(side, out, like) for like in (False, True) for side, out in ((a, here), (b, there))]


def _row(name: str, pair: tuple[str, str], executor: str, mode: str, values: Sequence[np.ndarray]) -> dict[str, Any]:
    right_a, right_b, likelihood_a, likelihood_b = values
    row: dict[str, Any] = {"benchmark": name, "a": pair[0], "b": pair[1], "executor": executor, "mode": mode}
    row["problems"] = int(np.sum(np.isfinite(right_a) & np.isfinite(right_b)))
    row["right_a"], row["right_b"] = _mean(right_a), _mean(right_b)
    row["accuracy"] = bootstrap(right_b - right_a, seed=0)
    row["likelihood"] = bootstrap(likelihood_b - likelihood_a, seed=0)
    if mode == "greedy":
        row["mcnemar"] = mcnemar(right_a, right_b)
    return row


def _mean(x: np.ndarray) -> float | None:
    known = x[np.isfinite(x)]
    return float(known.mean()) if len(known) else None


# --- To be read -------------------------------------------------------------------------------------------------------

HEAD = ("benchmark", "A", "B", "executor", "mode", "problems", "A right", "B right", "B - A", "likelihood, B - A",
        "only A right", "only B right", "McNemar p", "p by Holm")  # fmt: skip


def _cells(row: Mapping[str, Any]) -> list[str]:
    test = row.get("mcnemar")
    tested = ["-"] * 4
    if test:
        adjusted = f"{test['holm']:.3g}" if "holm" in test else "-"
        tested = [str(test["only_a"]), str(test["only_b"]), f"{test['p']:.3g}", adjusted]
    names = [row["benchmark"], row["a"], row["b"], row["executor"], row["mode"], str(row["problems"])]
    right = [number(row["right_a"]), number(row["right_b"])]
    return [*names, *right, interval(row["accuracy"]), interval(row["likelihood"]), *tested]


def _terminal_table(rows: Sequence[Mapping[str, Any]], title: str) -> Table:
    """What fits a terminal: names that do not tell rows apart are left out."""
    caption = "B less A on the same problems; in brackets 95 % bootstrap intervals"
    shown = Table(title=title, caption=caption, box=None, padding=(0, 2, 0, 0), pad_edge=False)
    shown.add_column("")
    for name in ("n", "A", "B", "B less A", "McNemar"):
        shown.add_column(name, justify="right", no_wrap=True)
    telling = [name for name in ("benchmark", "b", "executor", "mode") if len({row[name] for row in rows}) > 1]
    for row in rows:
        right = [number(row["right_a"]), number(row["right_b"]), interval(row["accuracy"])]
        tested = f"p {row['mcnemar']['p']:.3g}" if "mcnemar" in row else "-"
        shown.add_row(", ".join(row[name] for name in telling), str(row["problems"]), *right, tested)
    return shown


def run_compare(a: str, b: str, out: str | None) -> None:
    """Prints the comparison, and writes `OUT/compare.json` and `OUT/compare.md` if asked to.

    Raises:
        UserError: as `find_side` and `compare`.
    """
    sides = find_side(a), find_side(b)
    rows = compare(*sides)
    console.print(_terminal_table(rows, f"A: {a}   B: {b}"), soft_wrap=False)
    if out:
        path = Path(out)
        path.mkdir(parents=True, exist_ok=True)
        told = (
            f"# B less A on the same problems\n\nA: `{a}`\n\nB: `{b}`\n\nIn brackets: 95 % bootstrap intervals over "
            f"problems.\n\n{table(HEAD, [_cells(row) for row in rows])}"
        )
        write_whole(path / "compare.md", told.encode())
        write_whole(path / "compare.json", to_json({"a": a, "b": b, "rows": rows}))
        print(f"{path / 'compare.md'}, {path / 'compare.json'}")
