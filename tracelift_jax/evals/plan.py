"""The work of an evaluation, cut into units: whole batches of traces, and whole batches of answers.

Each unit is a function of the experiment, the weights and the seed alone, and of the traces behind it; units come in
one fixed order, so what is done can be told by counting lines.
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from tracelift_jax.evals.experiment import NONE, REFERENCE, TRAINED, UNTRAINED, Evaluate, Mode

Drawn = Literal["fixed", "greedy", "sampled"]
"""How a trace came to be; "fixed" ones are the same in all modes."""


def stable_hash(*parts: object) -> int:
    """31 bits that depend on the parts' text alone: neither on the process nor on the machine."""
    text = "\0".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


@dataclasses.dataclass(frozen=True)
class TraceUnit:
    """A batch of reasoning to be written.

    Attributes:
        benchmark, source, drawn: whose problems, who writes, how. number: of the batch. rows: its problems.
        traces: M, traces a problem.
    """

    benchmark: str
    source: str
    drawn: Drawn
    number: int
    rows: tuple[int, ...]
    traces: int

    @property
    def base(self) -> str:
        """The source whose reasoning an audit changes; of other sources their own name."""
        return self.source.partition("/")[0]

    @property
    def audit(self) -> str:
        """The audit, or ""."""
        return self.source.partition("/")[2]

    def lines(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        """What its lines begin with; `ids` of the benchmark's problems by row."""
        common = {"benchmark": self.benchmark, "source": self.source, "drawn": self.drawn}
        return [common | {"problem_id": ids[row], "trace": m} for row in self.rows for m in range(self.traces)]


@dataclasses.dataclass(frozen=True)
class AnswerUnit:
    """A batch of answers to be drawn.

    Attributes:
        benchmark, source, executor, mode: whose problems, whose reasoning, who answers, how.
        number: of the batch. rows: its problems. traces: M, traces a problem. samples: n, answers a trace.
    """

    benchmark: str
    source: str
    executor: str
    mode: Mode
    number: int
    rows: tuple[int, ...]
    traces: int
    samples: int

    @property
    def drawn(self) -> Drawn:
        """Which traces are answered."""
        return drawn(self.source, self.mode)

    def lines(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        """What its lines begin with; `ids` of the benchmark's problems by row."""
        names = ("benchmark", "source", "executor", "mode")
        common = {name: getattr(self, name) for name in names}
        return [common | {"problem_id": ids[row], "trace": m} for row in self.rows for m in range(self.traces)]


def drawn(source: str, mode: Mode) -> Drawn:
    """How the reasoning of `source` is drawn for `mode`."""
    return "fixed" if source.partition("/")[0] in (NONE, REFERENCE) else mode


@dataclasses.dataclass(frozen=True)
class Plan:
    """All units of an evaluation.

    Attributes:
        config: the experiment.
        rows: the rows of each benchmark that are evaluated. reasoned: those of them that have reference reasoning.
        executors: the names of the executors.
    """

    config: Evaluate
    rows: Mapping[str, tuple[int, ...]]
    reasoned: Mapping[str, tuple[int, ...]]
    executors: tuple[str, ...]

    def bases(self) -> tuple[str, ...]:
        """Sources that are no audits, as they are named in records: the executor alone first."""
        config = self.config
        order = [source for source in (NONE, REFERENCE, UNTRAINED) if source in config.sources]
        return (*order, *config.planners) if TRAINED in config.sources else tuple(order)

    def sources(self) -> tuple[str, ...]:
        """All sources, each followed by its audits: "reference", "reference/shuffled", ..."""
        config = self.config
        out: list[str] = []
        for base in self.bases():
            kind = TRAINED if base in config.planners else base
            out += [base, *(f"{base}/{audit}" for audit in config.audits if kind in config.audited)]
        return tuple(out)

    def rows_of(self, benchmark: str, source: str) -> tuple[int, ...]:
        """The problems for which `source` has reasoning; none where the benchmark offers it no work."""
        base, _, audit = source.partition("/")
        rows = (self.reasoned if base == REFERENCE else self.rows)[benchmark]
        return () if audit == "other" and len(rows) < 2 else rows

    def trace_units(self) -> Iterator[TraceUnit]:
        """In the order they are done: each planner comes once, audits follow what they change."""
        for source in self.sources():
            if source == NONE:
                continue
            for benchmark in self.rows:
                ways: dict[Drawn, None] = {drawn(source, mode): None for mode in self.config.modes}
                for how in ways:
                    traces = self.config.samples if how == "sampled" else 1
                    for number, rows in self._batches(benchmark, source):
                        yield TraceUnit(benchmark, source, how, number, rows, traces)

    def answer_units(self) -> Iterator[AnswerUnit]:
        """In the order they are done: each executor comes once, and first it answers alone."""
        for executor in self.executors:
            for benchmark in self.rows:
                for source in self.sources():
                    for mode in self.config.modes:
                        traces, samples = self._counts(source, mode)
                        for number, rows in self._batches(benchmark, source):
                            yield AnswerUnit(benchmark, source, executor, mode, number, rows, traces, samples)

    def _counts(self, source: str, mode: Mode) -> tuple[int, int]:
        """Traces a problem and answers a trace."""
        if mode == "greedy":
            return 1, 1
        all_of_them = self.config.samples * self.config.answers
        return (1, all_of_them) if drawn(source, mode) == "fixed" else (self.config.samples, self.config.answers)

    def _batches(self, benchmark: str, source: str) -> Iterator[tuple[int, tuple[int, ...]]]:
        rows, size = self.rows_of(benchmark, source), self.config.batch_size
        for number, start in enumerate(range(0, len(rows), size)):
            yield number, rows[start : start + size]
