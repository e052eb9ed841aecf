"""What the study consists of: its arms, regimes and jobs, and the command of each job."""

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
ARMS = {
    "exec_only": "execution only",
    "tracelift_paper": "TraceLift, the paper's",
    "tracelift": "TraceLift, ours",
    "rm_only": "reward model only",
    "uplift_only": "uplift only",
    "sampled_sign_aware": "sampled uplift, sign-aware",
    "likelihood_product": "uplift by likelihood, product",
}
"""What the arms are called on the page; each is a file of arms/."""
BASELINE = "exec_only"
"""What the others are compared with."""
REGIMES = {
    "weak": "Weak executor",
    "strong": "Strong executor",
    "short": "Weak executor, the strong regime's problems",
    "rough": "Strong executor, rough reward model",
}
_FIVE = ("exec_only", "tracelift_paper", "tracelift", "rm_only", "uplift_only")
ARMS_OF = {
    "weak": _FIVE,
    "strong": tuple(ARMS),
    "short": ("exec_only", "tracelift", "rm_only"),
    "rough": ("tracelift", "rm_only"),
}
"""The arms of each regime. What goes beyond the five in two regimes tests an explanation of what they gave.

Execution only asks no reward model, so in the rough regime its runs are those of the strong one.
"""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What must be the same for all runs of a study.

    Attributes:
        steps: of each planner. problems: held-out ones that planners are measured on.
        executor_steps: of executors and reward models that the study trains; 0 takes those of their files.
    """

    steps: int = 110
    problems: int = 256
    executor_steps: int = 0


@dataclasses.dataclass(frozen=True)
class Job:
    """One command, which goes on where it stopped.

    Attributes:
        path: what it fills. command: what runs, without the interpreter. after: what must be done before.
    """

    path: Path
    command: tuple[str, ...]
    after: tuple["Job", ...] = ()

    @property
    def stamp(self) -> Path:
        """A file that is there once the job is done."""
        return self.path.with_name(self.path.name + ".done")

    @property
    def log(self) -> Path:
        """What it printed."""
        return self.path.with_name(self.path.name + ".log")

    def argv(self) -> list[str]:
        """The whole command line."""
        return [sys.executable, "-m", "tracelift_jax", *self.command]


@dataclasses.dataclass(frozen=True)
class Study:
    """Where a study is kept, and its jobs.

    Attributes:
        out: the folder. settings: see there.
    """

    out: Path
    settings: Settings

    def run(self, regime: str, arm: str, seed: int) -> Path:
        """The run directory of a planner."""
        return self.out / regime / arm / f"seed{seed}"

    def measured(self, regime: str, arm: str, seed: int) -> Path:
        """The evaluation of a planner."""
        return self.out / regime / arm / f"seed{seed}_measured"

    def before(self, regime: str) -> Path:
        """The evaluation before any training."""
        return self.out / regime / "before"

    def result(self, regime: str, arm: str, seed: int) -> Path:
        """What is kept of a planner's run and evaluation."""
        return self.out / regime / arm / f"seed{seed}.json"

    def before_result(self, regime: str) -> Path:
        """What is kept of the evaluation before any training."""
        return self.out / regime / "before.json"

    def unseen(self) -> Job:
        """Trains the executor that no planner meets."""
        return self._executor("unseen")

    def strong(self) -> Job:
        """Trains the executor of the strong regime, in two parts."""
        alone = self._executor("answers_alone")
        return self._executor("strong_executor", alone, f"--gin.BASE={alone.path / 'model'}")

    def rough(self) -> Job:
        """Trains the reward model that is not good."""
        path = self.out / "rough_rm"
        return Job(path, ("train-rm", f"--gin_file={HERE / 'rough_rm.gin'}", f"--run_dir={path}", *self._steps()))

    def _steps(self) -> tuple[str, ...]:
        """Of all models that are not planners, where they are not those of their files."""
        return (f"--gin.STEPS={self.settings.executor_steps}",) if self.settings.executor_steps else ()

    def models(self, regimes: Sequence[str]) -> list[Job]:
        """Trains what is not shipped and these regimes need: executors, and a reward model."""
        strong = [*self.strong().after, self.strong()] if {"strong", "rough"} & set(regimes) else []
        return [*strong, *([self.rough()] if "rough" in regimes else []), self.unseen()]

    def _executor(self, name: str, after: Job | None = None, *flags: str) -> Job:
        path = self.out / name
        command = ("sft", f"--gin_file={HERE / name}.gin", f"--run_dir={path}", *flags, *self._steps())
        return Job(path, command, (after,) if after else ())

    def _regime(self, regime: str) -> tuple[tuple[str, ...], tuple[Job, ...]]:
        """Its flags, and what its runs come after."""
        file = f"--gin_file={HERE / regime}.gin"
        if regime in ("weak", "short"):
            return (file,), ()
        executor, after = f"--gin.EXECUTOR={self.strong().path / 'model'}", (self.strong(),)
        if regime == "strong":
            return (file, executor), after
        return (file, executor, f"--gin.GRADER={self.rough().path / 'model'}"), (*after, self.rough())

    def _evaluation(self, regime: str, file: str, out: Path, *runs: str, after: tuple[Job, ...] = ()) -> Job:
        own, before = self._regime(regime)
        files = (*own, f"--gin_file={HERE / file}")
        flags = (f"--gin.UNSEEN={self.unseen().path / 'model'}", f"--gin.PROBLEMS={self.settings.problems}")
        return Job(out, ("eval", *files, *flags, *runs, f"--out={out}"), (*before, self.unseen(), *after))

    def baseline(self, regime: str) -> Job:
        """Measures a regime before any training."""
        return self._evaluation(regime, "before.gin", self.before(regime))

    def training(self, regime: str, arm: str, seed: int) -> Job:
        """Trains a planner."""
        own, before = self._regime(regime)
        path = self.run(regime, arm, seed)
        files = (*own, f"--gin_file={HERE / 'arms' / arm}.gin")
        flags = (f"--gin.SEED={seed}", f"--gin.STEPS={self.settings.steps}", f"--run_dir={path}")
        return Job(path, ("train", *files, *flags), before)

    def measurement(self, regime: str, arm: str, seed: int) -> Job:
        """Measures a trained planner."""
        trained = self.training(regime, arm, seed)
        out = self.measured(regime, arm, seed)
        return self._evaluation(regime, "evaluate.gin", out, f"--run_dir={trained.path}", after=(trained,))

    def jobs(self, regimes: Sequence[str], arms: Sequence[str], seeds: int) -> Iterator[Job]:
        """All jobs in order: all arms and regimes of a seed before the next one, so that what is done is comparable.

        What takes longest comes first, for those who run several at once. What has a result needs no job any more.
        """
        yield from self.models(regimes)
        yield from (self.baseline(regime) for regime in regimes if not self.before_result(regime).exists())
        for seed in range(seeds):
            for arm in arms:
                for regime in regimes:
                    if arm in ARMS_OF[regime] and not self.result(regime, arm, seed).exists():
                        yield self.training(regime, arm, seed)
                        yield self.measurement(regime, arm, seed)
