"""Held-out evaluation of planner + executor, at temperature 1 and, where asked, greedily."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh

from tracelift_jax.checked import check_types, require
from tracelift_jax.errors import UserError
from tracelift_jax.parallel.hosts import place_batch, place_everywhere, whole
from tracelift_jax.parallel.jitted import jitted
from tracelift_jax.rollout.batch import PromptBatch, Setup, Text, Weights
from tracelift_jax.rollout.elsewhere import Elsewhere
from tracelift_jax.rollout.records import trace_texts
from tracelift_jax.rollout.reward import OK, RewardConfig
from tracelift_jax.rollout.rollout import Rollout, rollout
from tracelift_jax.tasks.problem import Oracle, Problem, Task
from tracelift_jax.text.prompts import Prompts
from tracelift_jax.text.tokenizer import Tokenizer

MODES = {"sampled": 1.0, "greedy": 0.0}
"""Planner temperature of each way of evaluating."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How planner + executor are evaluated.

    Attributes:
        problems: how many held-out problems, from the first on.
        batch_size: problems at a time, over all devices.
        modes: "sampled": the planner at temperature 1, and the executor as in training, by which runs are compared and
            the best checkpoint is known; "greedy": both greedily. Each is a rollout of its own, to compile and to run.
        seed: of the samples; the same for all planners compared.
    """

    problems: int = 512
    batch_size: int = 128
    modes: tuple[Literal["sampled", "greedy"], ...] = ("sampled", "greedy")
    seed: int = 0

    def __post_init__(self) -> None:
        check_types(self)
        require(self.problems >= 1, f"Evaluation.problems must be at least 1, got {self.problems}")
        require(self.batch_size >= 1, f"Evaluation.batch_size must be at least 1, got {self.batch_size}")
        require("sampled" in self.modes, f"Evaluation.modes must have 'sampled', got {self.modes}")
        require(len(set(self.modes)) == len(self.modes), f"Evaluation.modes must differ, got {self.modes}")


def wilson(successes: float, trials: float, z: float = 1.96) -> tuple[float, float]:
    """The 95 % confidence interval of a rate (Wilson, 1927)."""
    if not trials:
        return 0.0, 1.0
    rate = successes / trials
    centre = (rate + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    return max(centre - half, 0.0), min(centre + half, 1.0)


def evaluation_setup(setup: Setup, temperature: float, likelihood: bool = True) -> Setup:
    """The same roles with one trace a problem, at `temperature`; greedy planners meet a greedy executor.

    Uplift is the gain in likelihood, or, where the executor gives none, in right answers, one against one.
    """
    reward = RewardConfig(kind="uplift_only", uplift="likelihood", malformed="fail")  # of programs, too: as counts
    if not likelihood:
        reward = dataclasses.replace(reward, uplift="sampled", repeats=1, baseline="cached", baseline_samples=1)
    executor = setup.executor_sampling if temperature else dataclasses.replace(setup.executor_sampling, temperature=0.0)
    return dataclasses.replace(
        setup,
        traces=1,
        planner_sampling=dataclasses.replace(setup.planner_sampling, temperature=temperature, top_p=1.0),
        executor_sampling=executor,
        reward=reward,
    )


class Evaluator:
    """Evaluates planners that share setup, executor, reward model and problems."""

    def __init__(
        self,
        setup: Setup,
        text: Text,
        batches: Sequence[PromptBatch],
        problems: Sequence[Problem],
        task: Task,
        tokenizer: Tokenizer,
        prompts: Prompts,
        config: Evaluation,
        mesh: Mesh,
        elsewhere: Callable[[Setup], Elsewhere] | None = None,
        left_out: int = 0,
    ):
        """`batches` are host batches over `problems`, in order of `index`; rows that are not `real` only fill.

        `elsewhere` makes the rollouts of a setup where the host judges answers; what failed there is in no rate.
        `left_out` problems did not fit; they are reported, and in no rate.
        """
        self._left_out, self._mesh = left_out, mesh
        self._batches = [(place_batch(batch, mesh), batch) for batch in batches]
        self._problems, self._task, self._tokenizer, self._prompts = problems, task, tokenizer, prompts
        self._config, self._text = config, text
        self._graded = setup.reward_model is not None
        self._served = elsewhere is not None
        self._roll = {mode: self._rollouts(setup, MODES[mode], elsewhere) for mode in config.modes}

    def _rollouts(
        self, setup: Setup, temperature: float, elsewhere: Callable[[Setup], Elsewhere] | None
    ) -> Callable[[Weights, PromptBatch, list[Problem], Array], Rollout]:
        if elsewhere is None:
            here = jitted(rollout, evaluation_setup(setup, temperature))
            return lambda weights, batch, problems, key: here(self._text, weights, batch, key)
        served = elsewhere(evaluation_setup(setup, temperature, likelihood=False))

        def ask(weights: Weights, batch: PromptBatch, problems: list[Problem], key: Array) -> Rollout:
            return served(self._text, weights, batch, problems, key)[0]

        return ask

    def __call__(self, weights: Weights) -> dict[str, float]:
        """Metrics `eval/<mode>/<name>`, rates with the ends of their intervals as `..._low` and `..._high`.

        Raises:
            UserError: the executor's server cannot be used.
        """
        out: dict[str, float] = {}
        for mode in self._config.modes:
            rows, failed = self._rows(weights, mode)
            if not rows:
                raise UserError(f"evaluation: none of {failed} held-out problems was answered and judged")
            count = len(rows["right"])
            for name in ("right", "faithful", "wrong_reason", "well_formed"):
                if name in rows:
                    key = f"eval/{mode}/{'accuracy' if name == 'right' else name}"
                    out[key] = float(np.mean(rows[name]))
                    out[f"{key}_low"], out[f"{key}_high"] = wilson(float(np.sum(rows[name])), count)
            for name in ("uplift", "score") if self._graded else ("uplift",):
                out[f"eval/{mode}/{name}"] = float(np.mean(rows[name]))
            out[f"eval/{mode}/problems"] = float(count)
            out[f"eval/{mode}/left_out"] = float(self._left_out)
            out |= {f"eval/{mode}/failed": float(failed)} if self._served else {}
        return out

    def _rows(self, weights: Weights, mode: str) -> tuple[dict[str, list[Any]], int]:
        """What is known of each problem, and how many answers failed."""
        rows: dict[str, list[Any]] = {}
        failed = 0
        key: Array = place_everywhere(jax.random.key(self._config.seed), self._mesh)
        for number, (placed, batch) in enumerate(self._batches):
            problems = [self._problems[int(index)] for index in batch.index]
            done = whole(self._roll[mode](weights, placed, problems, jax.random.fold_in(key, number)))
            bodies = trace_texts(done, self._tokenizer, self._prompts)
            for b in np.nonzero(batch.real)[0]:
                if not done.counted[b, 0]:
                    failed += 1
                    continue
                right = bool(done.verdicts[b, 0, 0] == OK)
                row = {
                    "right": right,
                    "well_formed": bool(done.well_formed[b, 0]),
                    "uplift": float(done.uplift.value[b, 0]),
                    "score": float(done.score[b, 0]),
                }
                if isinstance(self._task, Oracle):
                    row["faithful"] = self._task.faithful(problems[b], bodies[b][0])
                    row["wrong_reason"] = right and not row["faithful"]
                for name, value in row.items():
                    rows.setdefault(name, []).append(value)
        return rows, failed
