"""What `tracelift eval` evaluates: benchmarks x sources of reasoning x executors x modes."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from tracelift_jax.checked import check_types, did_you_mean, require
from tracelift_jax.models.build import Model
from tracelift_jax.rollout.sample import Sampling
from tracelift_jax.rollout.served import ExecutorServer
from tracelift_jax.tasks.problem import Task
from tracelift_jax.text.prompts import Prompts
from tracelift_jax.train.baseline_file import BaselineFile
from tracelift_jax.train.planner_loop import Train

Mode = Literal["greedy", "sampled"]
Source = Literal["none", "reference", "untrained", "trained"]
Audit = Literal["shuffled", "truncated", "other", "answer_only"]

NONE, REFERENCE, UNTRAINED, TRAINED = "none", "reference", "untrained", "trained"
RESIDENT = "resident"
"""The name of the executor of training, wherever it is."""


def _check_name(field: str, name: str) -> None:
    plain = bool(name) and all(letter.isalnum() or letter in "._-+" for letter in name)
    require(plain, f"{field} must be made of letters, digits and . _ - +, got {name!r}")


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Problems under a name.

    Attributes:
        name: in records and reports.
        task: where they come from. split: which of its splits.
        problems: how many, from the first on; 0 takes all.
        baseline: what `tracelift baseline` measured of the executor of training on this task and split. In the mode
            "sampled" the source "none" is then read from it and not asked again.
    """

    name: str
    task: Task
    split: Literal["test", "train"] = "test"
    problems: int = 0
    baseline: BaselineFile | None = None

    def __post_init__(self) -> None:
        check_types(self)
        _check_name("Benchmark.name", self.name)
        require(self.problems >= 0, f"Benchmark.problems must not be negative, got {self.problems}")


@dataclasses.dataclass(frozen=True)
class ExecutorModel:
    """An executor that training never saw; the reasoning reaches it as text.

    Attributes:
        name: in records and reports.
        model: its weights. tokenizer: its directory; empty: the model's.
        prompts, sampling: its words and how it draws; None takes those of the experiment.
        prompt_tokens: room for a framed problem; 0 takes the experiment's.
    """

    name: str
    model: Model
    tokenizer: str = ""
    prompts: Prompts | None = None
    sampling: Sampling | None = None
    prompt_tokens: int = 0

    def __post_init__(self) -> None:
        check_types(self)
        _check_name("ExecutorModel.name", self.name)
        require(
            self.name != RESIDENT, f"ExecutorModel.name must not be {RESIDENT!r}, which is the executor of training"
        )
        require(
            bool(self.tokenizer or self.model.path), "ExecutorModel.tokenizer must be set where the model has no path"
        )
        require(self.prompt_tokens >= 0, f"ExecutorModel.prompt_tokens must not be negative, got {self.prompt_tokens}")


@dataclasses.dataclass(frozen=True)
class ServedExecutor:
    """An executor on a server; the reasoning reaches it as text. It gives no likelihood.

    Attributes:
        name: in records and reports.
        server: where it is.
        tokenizer: a directory with the served model's, for the chat template of prompts that have a Chat; empty: the
            resident one.
        prompts, sampling: its words and how it draws; None takes those of the experiment.
    """

    name: str
    server: ExecutorServer
    tokenizer: str = ""
    prompts: Prompts | None = None
    sampling: Sampling | None = None

    def __post_init__(self) -> None:
        check_types(self)
        _check_name("ServedExecutor.name", self.name)
        require(
            self.name != RESIDENT, f"ServedExecutor.name must not be {RESIDENT!r}, which is the executor of training"
        )


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """`tracelift eval --out=DIR`: benchmarks x sources of reasoning x executors x modes, to the last record.

    Attributes:
        train: the experiment whose executor, reward model and (untrained) planner are evaluated.
        benchmarks: the problems. only: the names of those that are evaluated; empty: all.
        sources: where reasoning comes from. "none": the executor alone; "reference": the task's own; "untrained": the
            planner before training; "trained": the planner of each directory in `runs`, under the directory's name.
        runs: run directories of `tracelift train`; `--run_dir=D` adds one.
        audits: what is done to the reasoning of every source in `audited`, each as a source of its own:
            "shuffled": its steps in another order; "truncated": the first half of its steps; "other": that of another
            problem; "answer_only": its final number alone, in the words `answer_only`.
        audited: sources that are audited; they must be among `sources`.
        answer_only: the words around "{answer}".
        executors: besides the resident one of training, or, without `resident`, instead of it.
        resident: whether the executor of training answers.
        modes: "greedy": one greedy trace and one greedy answer; "sampled": `samples` traces of a planner with `answers`
            answers each. Reasoning that is not drawn gets samples x answers answers, so that all have as many.
        samples, answers, temperature, top_p: how planners draw in the mode "sampled"; executors draw as in training.
        pass_at: k's for which results tell pass@k, the chance that one of k answers to a problem is right, by the
            unbiased estimator from all samples x answers of a problem; of its one greedy answer pass@1 alone. Answers
            behind one trace are not independent: for k above 1 raise `samples`, and leave `answers` at 1.
        malformed: what counts for a trace without closing tag, empty, or with a second opening tag: "fail", wrong
            whatever was answered, as in training by default; "execute", the answer.
        reasoning_tokens: for an executor, longer reasoning (its tags included) is cut at its end, and counted.
        batch_size: problems at a time, over all devices. seed: of all that is drawn; the same draws meet all sources.
    """

    train: Train
    benchmarks: tuple[Benchmark, ...]
    only: tuple[str, ...] = ()
    sources: tuple[Source, ...] = (NONE, UNTRAINED, TRAINED, REFERENCE)
    runs: tuple[str, ...] = ()
    audits: tuple[Audit, ...] = ("shuffled", "truncated", "other", "answer_only")
    audited: tuple[Source, ...] = (REFERENCE,)
    answer_only: str = "The answer is {answer}."
    executors: tuple[ExecutorModel | ServedExecutor, ...] = ()
    resident: bool = True
    modes: tuple[Mode, ...] = ("greedy", "sampled")
    samples: int = 4
    answers: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    pass_at: tuple[int, ...] = ()
    malformed: Literal["fail", "execute"] = "fail"
    reasoning_tokens: int = 1024
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        check_types(self)
        for field in ("samples", "answers", "reasoning_tokens", "batch_size"):
            require(getattr(self, field) >= 1, f"Evaluate.{field} must be at least 1, got {getattr(self, field)}")
        for field in ("benchmarks", "sources", "modes"):
            require(bool(getattr(self, field)), f"Evaluate.{field} must not be empty")
        for field in ("sources", "modes", "audits", "audited"):
            _check_distinct(f"Evaluate.{field}", getattr(self, field))
        require(self.temperature > 0, f"Evaluate.temperature must be above 0, got {self.temperature}; greedy is a mode")
        require(0 < self.top_p <= 1, f"Evaluate.top_p must lie in (0, 1], got {self.top_p}")
        self._check_pass_at()
        require("{answer}" in self.answer_only, 'Evaluate.answer_only must hold "{answer}"')
        _check_distinct("Evaluate.benchmarks", [benchmark.name for benchmark in self.benchmarks])
        for name in self.only:
            known = [benchmark.name for benchmark in self.benchmarks]
            require(name in known, f"Evaluate.only: no benchmark is called {name!r}{did_you_mean(name, known)}")
        _check_distinct("Evaluate.executors", [executor.name for executor in self.executors])
        require(
            self.resident or bool(self.executors), "Evaluate.executors must not be empty where there is no resident"
        )
        for benchmark in self.benchmarks:
            used = self.resident and NONE in self.sources and "sampled" in self.modes
            require(
                benchmark.baseline is None or used,
                'Benchmark.baseline is for the resident executor with the source "none" in the mode "sampled"',
            )
        require(NONE not in self.audited, 'Evaluate.audited: "none" has no reasoning to audit')
        for source in self.audited:
            known = not self.audits or source in self.sources
            require(known, f'Evaluate.audited: "{source}" is not among Evaluate.sources')
        _check_distinct("Evaluate.runs: the directories' names", self.planners)
        for name in self.planners:
            _check_name("Evaluate.runs: a directory's name", name)
            taken = name in (NONE, REFERENCE, UNTRAINED, TRAINED)
            require(not taken, f"Evaluate.runs: a directory's name must not be {name!r}, which is a source already")
        require(not self.runs or TRAINED in self.sources, 'Evaluate.runs: "trained" is not among Evaluate.sources')

    def _check_pass_at(self) -> None:
        _check_distinct("Evaluate.pass_at", list(map(str, self.pass_at)))
        sampled = "sampled" in self.modes
        drawn, hint = (self.samples * self.answers, "raise Evaluate.samples") if sampled else (1, 'add mode "sampled"')
        for k in self.pass_at:
            require(k >= 1, f"Evaluate.pass_at must be from 1 on, got {k}")
            more = f"pass@{k} needs {k} answers to a problem, and there will be {drawn}; {hint}, or lower it"
            require(k <= drawn, f"Evaluate.pass_at: {more}")

    @property
    def chosen(self) -> tuple[Benchmark, ...]:
        """The benchmarks that are evaluated."""
        return tuple(benchmark for benchmark in self.benchmarks if not self.only or benchmark.name in self.only)

    @property
    def planners(self) -> tuple[str, ...]:
        """The names of trained planners, in the order of `runs`."""
        return tuple(Path(run).resolve().name for run in self.runs)


def _check_distinct(field: str, names: Sequence[str]) -> None:
    twice = [name for name in names if names.count(name) > 1]
    require(not twice, f"{field} must differ from each other, got {twice[0] if twice else ''!r} twice")
