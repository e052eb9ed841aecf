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
}
"""What the arms are called on the page; each is a file of arms/. The first is what the others are compared with."""
REGIMES = {"weak": "Weak executor", "strong": "Strong executor"}
BASELINE = "exec_only"


@dataclasses.dataclass(frozen=True)
class Settings:
    """What must be the same for all runs of a study.

    Attributes:
        steps: of each planner. problems: held-out ones that planners are measured on.
        executor_steps: of the executors that the study trains; 0 takes those of their files.
    """

    steps: int = 110
    problems: int = 256
    executor_steps: int = 0


@dataclasses.dataclass(frozen=True)
class Job:
    """One command, which goes on where it stopped.

    Attributes:
        path: what it fills. command: what runs, without the interpreter.
    """

    path: Path
    command: tuple[str, ...]

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

    def executors(self, regimes: Sequence[str]) -> list[Job]:
        """Trains the executors that are not shipped: the one that no planner meets, and the strong one in two parts."""
        steps = (f"--gin.STEPS={self.settings.executor_steps}",) if self.settings.executor_steps else ()
        base = (f"--gin.BASE={self.out / 'answers_alone' / 'model'}",)
        strong = [("answers_alone", ()), ("strong_executor", base)] if "strong" in regimes else []
        return [
            Job(path, ("sft", f"--gin_file={HERE / name}.gin", f"--run_dir={path}", *flags, *steps))
            for name, flags in [("unseen", ()), *strong]
            for path in [self.out / name]
        ]

    def _regime(self, regime: str) -> tuple[str, ...]:
        own = (f"--gin.EXECUTOR={self.out / 'strong_executor' / 'model'}",) if regime == "strong" else ()
        return (f"--gin_file={HERE / regime}.gin", *own)

    def _evaluation(self, regime: str, file: str, out: Path, *runs: str) -> Job:
        files = (*self._regime(regime), f"--gin_file={HERE / file}")
        flags = (f"--gin.UNSEEN={self.out / 'unseen' / 'model'}", f"--gin.PROBLEMS={self.settings.problems}")
        return Job(out, ("eval", *files, *flags, *runs, f"--out={out}"))

    def baseline(self, regime: str) -> Job:
        """Measures a regime before any training."""
        return self._evaluation(regime, "before.gin", self.before(regime))

    def training(self, regime: str, arm: str, seed: int) -> Job:
        """Trains a planner."""
        path = self.run(regime, arm, seed)
        files = (*self._regime(regime), f"--gin_file={HERE / 'arms' / arm}.gin")
        flags = (f"--gin.SEED={seed}", f"--gin.STEPS={self.settings.steps}", f"--run_dir={path}")
        return Job(path, ("train", *files, *flags))

    def measurement(self, regime: str, arm: str, seed: int) -> Job:
        """Measures a trained planner."""
        run = f"--run_dir={self.run(regime, arm, seed)}"
        return self._evaluation(regime, "evaluate.gin", self.measured(regime, arm, seed), run)

    def jobs(self, regimes: Sequence[str], arms: Sequence[str], seeds: int) -> Iterator[Job]:
        """All jobs in order: all arms and regimes of a seed before the next one, so that what is done is comparable."""
        yield from self.executors(regimes)
        yield from map(self.baseline, regimes)
        for seed in range(seeds):
            for arm in arms:
                for regime in regimes:
                    yield self.training(regime, arm, seed)
                    yield self.measurement(regime, arm, seed)
