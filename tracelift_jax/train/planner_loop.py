"""`tracelift train`: the I/O around planner training."""

import dataclasses
import time
from typing import Any

import jax
import numpy as np
from jax import Array

from tracelift_jax.checked import check_types, require
from tracelift_jax.errors import UserError
from tracelift_jax.models.build import find
from tracelift_jax.parallel.hosts import combine, first, own_rows, place_batch, take_rows
from tracelift_jax.parallel.jitted import jitted
from tracelift_jax.parallel.mesh import check_batch, replicated, split_batch
from tracelift_jax.rollout.batch import PromptBatch, Weights
from tracelift_jax.rollout.elsewhere import Elsewhere, Heard
from tracelift_jax.rollout.evaluate import Evaluation
from tracelift_jax.rollout.records import records
from tracelift_jax.rollout.rollout import Rollout
from tracelift_jax.rollout.settle import Settling
from tracelift_jax.tasks.problem import Oracle
from tracelift_jax.train.baseline import VISIBLE_AFTER, BaselineCounts
from tracelift_jax.train.baseline_file import Baseline, BaselineFile, open_baseline
from tracelift_jax.train.checkpoint import restore_trained
from tracelift_jax.train.clock import Clock
from tracelift_jax.train.data import problem_stream
from tracelift_jax.train.guard import Guard, Watch
from tracelift_jax.train.losses import GrpoConfig
from tracelift_jax.train.planner import make_steps
from tracelift_jax.train.roles import Loaded, Roles, load_roles
from tracelift_jax.train.run import Parts, RunDir, Schedule, fit
from tracelift_jax.train.update import (
    OptimizerConfig,
    TrainState,
    make_optimizer,
    require_divisible,
)


@dataclasses.dataclass(frozen=True)
class Train:
    """`tracelift train`: planner training by executor-grounded rewards.

    Attributes:
        roles: who plays.
        batch_size: B, problems a step, over all devices.
        passes: updates on each rollout.
        loss, optimizer, schedule, seed: how it is trained.
        baseline: what `tracelift baseline` measured of the executor without reasoning, for RewardConfig.uplift =
            "sampled" with a cached baseline; None: each problem is measured when it comes up first.
        guards: metrics that must stay in their ranges, or the run is stopped.
        evaluation: held-out evaluation, as often as the schedule says.
        records_every: steps between written reward records; 0 writes none.
    """

    roles: Roles
    batch_size: int = 16
    passes: int = 1
    loss: GrpoConfig = GrpoConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: Schedule = Schedule()
    baseline: BaselineFile | None = None
    guards: tuple[Guard, ...] = ()
    evaluation: Evaluation = Evaluation()
    records_every: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        check_types(self)
        require(self.batch_size >= 1, f"Train.batch_size must be at least 1, got {self.batch_size}")
        require(self.passes >= 1, f"Train.passes must be at least 1, got {self.passes}")
        require(self.records_every >= 0, f"Train.records_every must not be negative, got {self.records_every}")
        reward = self.roles.reward
        require(
            self.baseline is None or (reward.uplift == "sampled" and reward.baseline == "cached"),
            'Train.baseline is for RewardConfig.uplift = "sampled" with RewardConfig.baseline = "cached"',
        )
        require_divisible("Train.batch_size", self.batch_size, self.optimizer)


HEADLINE = {
    "reward/mean": "reward",
    "reward/accuracy": "accuracy",
    "reward/uplift": "uplift",
    "reward/grade": "grade",
    "rollout/well_formed": "formed",
    "optimizer/gradient_norm": "|g|",
}


Done = tuple[Rollout, Heard | None]
"""A rollout, and what the executor said in it where the host judged that."""


@dataclasses.dataclass(frozen=True)
class Begun:
    """What a run starts from, and its functions.

    Attributes:
        state, frozen: before the first step. sampling_key: samples are drawn from it, by step.
        roll, train: see `make_steps`. elsewhere: in place of `roll`, where the host judges answers.
    """

    state: TrainState
    frozen: Any
    sampling_key: Array
    roll: Any
    train: Any
    elsewhere: Elsewhere | None


def begin(config: Train, loaded: Loaded) -> Begun:
    """A planner before training; see `make_steps`."""
    trainable, frozen = loaded.trainable(config.seed)
    steps = config.schedule.steps
    optimizer = make_optimizer(config.optimizer, steps * config.passes)
    state, layouts = loaded.source.state(trainable, optimizer, config.seed)
    _, roll, train = make_steps(loaded.setup, config.loss, config.optimizer, config.passes, steps, layouts)
    elsewhere = loaded.elsewhere(loaded.setup) if loaded.host_judges else None
    # Sampling and updating draw from separate streams of the seed.
    sampling_key = loaded.source.everywhere(jax.random.key(config.seed + 2**20))
    return Begun(state, frozen, sampling_key, roll, train, elsewhere)


def _measured(done: Rollout) -> tuple[Array, Array]:
    """int32 [B] counts of the baseline, which all processes remember."""
    return done.uplift.baseline_ok[:, 0], done.uplift.baseline_trials[:, 0]


class PlannerTraining:
    """A run's functions and what its host remembers."""

    def __init__(self, config: Train, loaded: Loaded):
        self.config, self.loaded = config, loaded
        check_batch(loaded.mesh, "Train.batch_size", config.batch_size // config.optimizer.accumulate)
        self.problems = loaded.problems("train")
        self.stream = problem_stream(
            self.problems, batch_size=config.batch_size, seed=config.seed, encode=loaded.encode()
        )
        self.baseline = BaselineCounts()
        self.baseline_file = self.read_baseline()
        begun = begin(config, loaded)
        self.state, self.frozen, self.sampling_key = begun.state, begun.frozen, begun.sampling_key
        self.roll, self.train, self.elsewhere = begun.roll, begun.train, begun.elsewhere
        self.settle = Settling(config.roles.reward, loaded.setup.normalize, split_batch(loaded.mesh))
        self.measured = jitted(_measured, out_shardings=replicated(loaded.mesh))
        self.rows = own_rows(loaded.mesh, config.batch_size)
        self.drawn = 0
        self.clock = Clock()

    def read_baseline(self) -> Baseline | None:
        """The counts measured before, all of them known from the first step on; and the file, where it is added to.

        Raises:
            UserError: they were measured with something else, or some are missing and must not be.
        """
        if self.config.baseline is None:
            return None
        told = self.config.baseline
        file = open_baseline(told, self.loaded, self.problems, self.problems, "train")
        rows = list(file.rows.values())
        counts = (np.array([row[name] for row in rows], np.int32) for name in ("ok", "trials"))
        self.baseline.add([row["problem_id"] for row in rows], *counts, step=-VISIBLE_AFTER)
        return file if told.extend else None

    def next_batch(self) -> tuple[PromptBatch, list]:
        """The next batch on the mesh, with the baseline counts known by now, and its problems."""
        self.before = self.stream.get_state()
        batch = next(self.stream)
        self.drawn += 1
        self.problems_drawn = problems = [self.problems[int(index)] for index in batch.index]
        ok, trials = self.baseline.lookup([p.problem_id for p in problems], self.drawn)
        batch = dataclasses.replace(batch, baseline_ok=ok, baseline_trials=trials)
        return place_batch(batch, self.loaded.mesh), problems

    @property
    def remembers(self) -> bool:
        """Whether rollouts measure a baseline that is kept."""
        reward = self.config.roles.reward
        return reward.uplift == "sampled" and reward.baseline == "cached"

    def step(self, state: TrainState, batch: PromptBatch) -> tuple[TrainState, dict[str, Array], Any]:
        """One rollout and its updates; what is left of it is the rollout, and the baseline's counts.

        Raises:
            UserError: the executor's server cannot be used; the batch counts as not drawn.
        """
        began = time.perf_counter()
        done, heard = self.rollout(state, batch)
        counts = self.measured(done) if self.remembers else None
        self.clock.stage("rollout", done.reward, began)
        began = time.perf_counter()
        state, metrics = self.train(state, self.frozen, batch, done)
        self.clock.stage("update", metrics, began)
        return state, metrics, ((done, heard), counts)

    def rollout(self, state: TrainState, batch: PromptBatch) -> Done:
        """One rollout, judged on the device or by the host; settled as it can be replayed."""
        loaded = self.loaded
        weights = planner_weights(loaded, self.frozen, state.trainable)
        if self.elsewhere is None:
            return self.settle(self.roll(weights, loaded.text, batch, self.sampling_key, state.step)), None
        key = jax.random.fold_in(self.sampling_key, state.step)
        try:
            done, heard = self.elsewhere(loaded.text, weights, batch, self.problems_drawn, key)
        except UserError:
            self.stream.set_state(self.before)
            self.drawn -= 1
            raise
        return self.settle(done), heard

    def host_state(self) -> dict[str, Any]:
        """What the host must remember between runs."""
        return {"data": self.stream.get_state(), "baseline": self.baseline.get_state(), "drawn": self.drawn}

    def load_host_state(self, host: dict[str, Any]) -> None:
        """The inverse of `host_state`."""
        self.stream.set_state(host["data"])
        self.baseline.set_state(host["baseline"])
        self.drawn = host["drawn"]

    def remember(self, step: int, problems: list, counts: tuple[np.ndarray, np.ndarray]) -> None:
        """Keeps the baseline counts int32 [B] that a rollout measured."""
        ids = [p.problem_id for p in problems]
        self.baseline.add(ids, *counts, step)
        if self.baseline_file is not None and first():
            measured = zip(ids, *(count.tolist() for count in counts), strict=True)
            self.baseline_file.add(
                [{"problem_id": i, "ok": ok, "trials": n, "likelihood": None} for i, ok, n in measured if n]
            )

    def write_records(self, run: RunDir, step: int, problems: list, done: Done) -> dict[str, float]:
        """Writes the reward records of this process's rows; returns what they say of all processes' rows."""
        (rollout, heard), loaded = done, self.loaded
        mine = [problems[row] for row in self.rows]
        common = {"step": step, "weights": loaded.fingerprints}
        told = take_rows(rollout, self.rows)
        rows = records(told, mine, self.config.roles.task, loaded.tokenizer, self.config.roles.prompts, common, heard)
        run.write_traces(step, rows)
        if not isinstance(self.config.roles.task, Oracle):
            return {}
        faithful, traces = combine(np.array([sum(row["faithful"] for row in rows), len(rows)], np.float32))
        return {"reward/faithful": float(faithful / traces)}


def run_train(config: Train, run: RunDir, stop_after: int | None = None) -> None:
    """Trains, or continues training, a planner; its adapter or weights are in the run's checkpoints."""
    loaded = load_roles(config.roles, config.loss.normalize)
    training = PlannerTraining(config, loaded)
    evaluator = loaded.evaluator(config.evaluation)

    def on_step(step: int, problems: list, aux: tuple[Done, Any], metrics: dict[str, float]) -> None:
        done, counts = aux
        metrics |= training.clock.lap(stages=2) | (done[1].metrics if done[1] else {})
        began = time.perf_counter()
        if counts is not None:
            training.remember(step, problems, jax.device_get(counts))
        metrics["baseline/known_problems"] = float(len(training.baseline))
        if config.records_every and step % config.records_every == 0:
            metrics |= training.write_records(run, step, problems, done)
        metrics["time/records_seconds"] = time.perf_counter() - began

    def evaluate(state: TrainState) -> dict[str, float]:
        return evaluator(planner_weights(loaded, training.frozen, state.trainable))

    parts = Parts(
        step=training.step,
        batches=iter(training.next_batch, None),
        left_out=training.stream.left_out,
        host_state=training.host_state,
        load_host_state=training.load_host_state,
        evaluate=evaluate,
        score="eval/sampled/accuracy",
        memory=loaded.memory(training.state.trainable, training.state.opt_state, config.batch_size),
        headline=HEADLINE | {"reward/faithful": "faithful"},
        on_step=on_step,
        watch=Watch(config.guards),
    )
    fit(run, config.schedule, training.state, parts, stop_after)


def planner_weights(loaded: Loaded, frozen: Any, trainable: Any) -> Weights:
    """All three roles' variables for a planner in training, laid out for rollouts."""
    return loaded.decoding(Weights({**frozen["planner"], **trainable}, frozen["executor"], loaded.reward_model))


def trained_planner(config: Train, loaded: Loaded, run_dir: str) -> tuple[int, Weights]:
    """The planner of a run's newest checkpoint, and its step.

    Raises:
        UserError: as `restore_trained`.
    """
    trainable, frozen = loaded.trainable(config.seed)
    optimizer = make_optimizer(config.optimizer, config.schedule.steps * config.passes)
    like, _ = loaded.source.state(trainable, optimizer, config.seed)
    step, trained = restore_trained(find(run_dir), like)
    return step, planner_weights(loaded, frozen, trained)
