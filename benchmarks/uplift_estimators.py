"""Ways to estimate the uplift of a trace, side by side on the same traces: bias, noise, ranking and cost.

    python benchmarks/uplift_estimators.py --gin_file=experiments/dial/tracelift.gin [--gin.NAME=VALUE ...] [--out=FILE]

The experiment's planner writes a group of traces for each of its held-out problems at its own temperature, and others
at higher ones, so that there is bad reasoning among them. Its executor then shows what each trace gives it, by many
draws with and without the trace: the truth. Every estimator is run on these traces as a rollout runs it, the sampled
ones many times with fresh draws. docs/uplift.md says what the table means.

Traces are executed as they are, whatever their form: what `RewardConfig.malformed` makes of them comes behind every
estimator alike.
"""

import argparse
import dataclasses
import datetime
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jax import Array

from tracelift_jax import config, gin_config
from tracelift_jax.checked import require
from tracelift_jax.errors import UserError
from tracelift_jax.evals import metrics
from tracelift_jax.parallel.hosts import place_batch
from tracelift_jax.parallel.mesh import check_batch
from tracelift_jax.rollout.batch import PromptBatch, Setup
from tracelift_jax.rollout.reward import RewardConfig
from tracelift_jax.rollout.rollout import Uplift, Written, execute, write
from tracelift_jax.rollout.uplift_errors import CHUNK, Errors, Truth, count_right, errors, make_truth
from tracelift_jax.text.spans import Tokens
from tracelift_jax.train.data import eval_batches
from tracelift_jax.train.planner_loop import planner_weights
from tracelift_jax.train.roles import Loaded, load_roles

LIKELIHOOD = "likelihood"
ESTIMATORS = {
    LIKELIHOOD: RewardConfig(uplift="likelihood"),
    "sampled, 3 against 3": RewardConfig(uplift="sampled", baseline="resample", repeats=3),
    "sampled, 3 against cached 8": RewardConfig(uplift="sampled", repeats=3),
    "sampled, 8 against 8": RewardConfig(uplift="sampled", baseline="resample", repeats=8),
    "sampled, 5 against cached 8": RewardConfig(uplift="sampled", repeats=5),
    "sampled, 3 and 8 more for a quarter, against cached 8": RewardConfig(
        uplift="sampled", repeats=3, adaptive=8, malformed="execute"
    ),
}


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        problems: held-out problems that fit, the first ones. batch: of them at a time, over all devices.
        temperatures: of the planner, as multiples of its own in training; each writes a group of every problem.
        draws: behind each trace for the truth, a multiple of 64 or less than that; G times as many for each problem
            without a trace.
        repetitions: of each sampled estimator. rounds: of timing.
        seed: of all draws.
    """

    problems: int = 64
    batch: int = 16
    temperatures: tuple[float, ...] = (1.0, 1.5)
    draws: int = 512
    repetitions: int = 16
    rounds: int = 9
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("problems", 2), ("batch", 1), ("draws", 2), ("repetitions", 2), ("rounds", 1)):
            require(getattr(self, name) >= least, f"--{name} must be at least {least}, got {getattr(self, name)}")
        require(self.draws % min(self.draws, CHUNK) == 0, f"--draws must be a multiple of {CHUNK}, got {self.draws}")
        require(all(t > 0 for t in self.temperatures), "--temperatures must be above 0")


def tokens_used(setup: Setup, batch: PromptBatch, said: Tokens, gained: Uplift) -> np.ndarray:
    """float [B, 2]: executor tokens a trace that an estimator scored or decoded, with the trace and without it."""
    if setup.reward.uplift == "likelihood":
        scored = np.asarray(batch.answer.valid).sum(-1)
        return np.stack([scored, scored / setup.traces], -1)
    alone = np.asarray(gained.baseline_answers.valid)
    with_it = np.asarray(said.valid)[:, :, 1:].sum((2, 3)).mean(1)
    return np.stack([with_it, alone.sum(tuple(range(1, alone.ndim))) / setup.traces], -1)


@dataclasses.dataclass(frozen=True)
class Measured:
    """One estimator: its errors, tokens a trace with it and without, and seconds of executing a batch with it."""

    errors: Errors
    tokens: tuple[float, float]
    seconds: float


@dataclasses.dataclass(frozen=True)
class Comparison:
    """All that a run of this script found.

    Attributes:
        sizes: what was asked for. loaded: the roles. truth: see `Truth`.
        right, canonical: right answers among the truth's draws, and those of them in canonical form.
        estimators: by name.
    """

    sizes: Sizes
    loaded: Loaded
    truth: Truth
    right: int
    canonical: int
    estimators: dict[str, Measured]


# --- The run ----------------------------------------------------------------------------------------------------------


class Bench:
    """The roles of an experiment, its batches, and what is measured on them."""

    def __init__(self, experiment: config.Train, sizes: Sizes, rewards: dict[str, RewardConfig]):
        self.sizes, self.loaded = sizes, load_roles(experiment.roles, experiment.loss.normalize)
        # Nothing is graded here.
        self.setup = dataclasses.replace(self.loaded.setup, reward_model=None)
        trainable, frozen = self.loaded.trainable(experiment.seed)
        self.weights = dataclasses.replace(planner_weights(self.loaded, frozen, trainable), reward_model=None)
        check_batch(self.loaded.mesh, "--batch", sizes.batch)
        problems = self.loaded.problems("test", sizes.problems)
        found = list(eval_batches(problems, self.loaded.encode(), sizes.batch, sizes.problems))
        self.batches = [place_batch(batch, self.loaded.mesh) for batch, _, _ in found]
        self.real = np.concatenate([real for _, _, real in found]) if found else np.zeros(0, bool)
        require(self.real.sum() >= 2, "fewer than 2 held-out problems fit Roles.prompt_tokens and answer_tokens")
        self.key: Array = jax.random.key(sizes.seed)
        self.rewards = rewards
        self.execute: dict[str, Callable] = {
            name: jax.jit(partial(execute, dataclasses.replace(self.setup, reward=reward)))
            for name, reward in rewards.items()
        }

    def keys(self, purpose: int, *numbers: int) -> Array:
        """A key of its own for each purpose, batch, temperature, ..."""
        key = jax.random.fold_in(self.key, purpose)
        for number in numbers:
            key = jax.random.fold_in(key, number)
        return key

    def on_problems(self, per_batch: list) -> np.ndarray:
        """Arrays [..., B of a batch, ...], axis 0 for the batches, as one array of the real problems, on axis 0."""
        return np.concatenate([np.asarray(x) for x in per_batch])[self.real]

    def write(self) -> list[list[Written]]:
        """[batches][temperatures] groups of traces."""
        out = [[] for _ in self.batches]
        for t, factor in enumerate(self.sizes.temperatures):
            sampling = self.setup.planner_sampling
            hotter = dataclasses.replace(sampling, temperature=factor * sampling.temperature)
            writing = jax.jit(partial(write, dataclasses.replace(self.setup, planner_sampling=hotter)))
            for b, batch in enumerate(self.batches):
                out[b].append(writing(self.loaded.text, self.weights, batch, self.keys(0, b, t)))
        return out

    def count(self, written: list[list[Written]]) -> tuple[np.ndarray, np.ndarray]:
        """Right and right canonical answers: int [2, B, temperatures, G] with the traces, [2, B] without."""
        counting = jax.jit(partial(count_right, self.setup, self.sizes.draws))
        given = (self.loaded.text, self.weights.executor)
        with_it, alone = [], []
        for b, batch in enumerate(self.batches):
            groups = [counting(*given, batch, w.reason, self.keys(1, b, t)) for t, w in enumerate(written[b])]
            with_it.append(np.moveaxis(np.array(groups), 2, 0))
            alone.append(np.moveaxis(np.array(counting(*given, batch, None, self.keys(2, b))), 1, 0))
        # [B, temperatures, 2, G] and [B, 2].
        return np.moveaxis(self.on_problems(with_it), 2, 0), self.on_problems(alone).T

    def run(self, name: str, written: list[list[Written]]) -> tuple[np.ndarray, tuple[float, float]]:
        """Estimates [B, temperatures, G, repetitions] of one estimator, and its tokens a trace."""
        reward = self.rewards[name]
        repetitions = 1 if reward.uplift == "likelihood" else self.sizes.repetitions
        out, used = [], []
        for b, batch in enumerate(self.batches):
            values, tokens = [], []
            for t, group in enumerate(written[b]):
                for n in range(repetitions):
                    keys = jax.random.split(self.keys(3, b, t, n))
                    said, _, gained, _ = self.execute[name](self.loaded.text, self.weights, batch, group, keys)
                    values.append(np.asarray(gained.value))
                    tokens.append(tokens_used(dataclasses.replace(self.setup, reward=reward), batch, said, gained))
            shape = (len(written[b]), repetitions, *values[0].shape)
            out.append(np.transpose(np.reshape(values, shape), (2, 0, 3, 1)))
            used.append(np.mean(tokens, axis=0))
        with_it, without = self.on_problems(used).mean(0)
        return self.on_problems(out), (float(with_it), float(without))

    def seconds(self, written: Written) -> dict[str, float]:
        """Median seconds of executing the first batch with each estimator, which take turns. Baselines are known."""
        size = len(self.batches[0].index)
        known = {name: np.full(size, 8, np.int32) for name in ("baseline_ok", "baseline_trials")}
        batch = dataclasses.replace(self.batches[0], **place_batch(known, self.loaded.mesh))
        took: dict[str, list[float]] = {name: [] for name in self.execute}
        for number in range(self.sizes.rounds):
            for name, run in self.execute.items():
                keys = jax.random.split(self.keys(4, number))
                began = time.perf_counter()
                jax.block_until_ready(run(self.loaded.text, self.weights, batch, written, keys))
                took[name].append(time.perf_counter() - began)
        return {name: statistics.median(times) for name, times in took.items()}


def compare(experiment: config.Train, sizes: Sizes, rewards: dict[str, RewardConfig] = ESTIMATORS) -> Comparison:
    """Measures the estimators of `rewards` on an experiment; one of them is "likelihood"."""
    bench = Bench(experiment, sizes, rewards)
    written = bench.write()
    counts, alone = bench.count(written)
    truth = make_truth(counts, sizes.draws, alone, sizes.draws * bench.setup.traces)
    found = {name: bench.run(name, written) for name in rewards}
    seconds = bench.seconds(written[0][0])
    measured = {name: Measured(errors(found[name][0], truth), found[name][1], seconds[name]) for name in rewards}
    right, canonical = (int(counts[n].sum() + alone[n].sum()) for n in (0, 1))
    return Comparison(sizes, bench.loaded, truth, right, canonical, measured)


# --- The report -------------------------------------------------------------------------------------------------------


def _ranged(found: metrics.Value, digits: int = 3, sign: str = "+") -> str:
    """A value with its interval, "0.123 (0.100, 0.150)"; "-" where there is none."""
    if found["value"] is None:
        return "-"
    ends = "" if found["low"] is None else f" ({found['low']:{sign}.{digits}f}, {found['high']:{sign}.{digits}f})"
    return f"{found['value']:{sign}.{digits}f}{ends}"


def root_mean(square: np.ndarray, seed: int = 0) -> metrics.Value:
    """The root of the mean over problems of float [B], with its bootstrap interval; below 0 counts as 0."""
    found = metrics.bootstrap(square, seed)
    return found | {end: max(found[end], 0.0) ** 0.5 for end in ("value", "low", "high")}


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    """A markdown table, its first column to the left."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _preface(found: Comparison) -> list[str]:
    """What was measured, in sentences."""
    sizes, roles, truth = found.sizes, found.loaded.roles, found.truth
    problems, _, group = truth.value.shape
    own = roles.planner.temperature
    hot = " and ".join(f"{own * factor:g}" for factor in sizes.temperatures)
    spread = np.sqrt(truth.noise.mean() + truth.base_noise.mean())
    mean = truth.value.mean((0, 2)) + truth.without.mean()
    rates = " and ".join(f"{rate:.3f}" for rate in mean)
    written = 1 - found.canonical / found.right if found.right else 0.0
    return [
        f"{problems} held-out problems, {group} traces each at planner temperature {hot}: {truth.value.size} traces.",
        f"The executor, at temperature {roles.executor.temperature:g}, is right behind {rates} of them, and "
        f"{truth.without.mean():.3f} without.",
        f"Truth: {sizes.draws} draws a trace, {sizes.draws * group} a problem without one; its own sampling error, "
        f"{spread:.4f}, is taken out of every square.",
        f"Of {found.right} right answers {100 * written:.2f} % were not canonical; all were, for "
        f"{100 * truth.canonical.mean():.1f} % of the traces.",
        f"Each sampled estimator {sizes.repetitions} times. Intervals at 95 %, over problems. "
        f"{datetime.date.today()}, {os.cpu_count()} CPU cores, {jax.devices()[0].device_kind}.",
    ]


def report(found: Comparison) -> str:
    """The comparison in markdown."""
    exact = found.estimators[LIKELIHOOD]
    rows, paired = [], []
    for name, one in found.estimators.items():
        e, (with_it, without) = one.errors, one.tokens
        rows.append(
            [
                name,
                _ranged(metrics.mean(e.bias)),
                _ranged(metrics.mean(e.canonical_bias)),
                f"{np.sqrt(e.variance.mean()):.3f}",
                _ranged(root_mean(e.square), sign=""),
                _ranged(root_mean(e.group_square), sign=""),
                _ranged(metrics.mean(e.order), sign=""),
                f"{with_it:.2f} + {without:.2f}",
                f"{one.seconds / exact.seconds:.2f}",
            ]
        )
        if one is not exact:
            pairs = ((getattr(e, of), getattr(exact.errors, of)) for of in ("value", "square", "group_square", "order"))
            paired.append([name, *(_ranged(metrics.bootstrap(a - b, 0), 4) for a, b in pairs)])
    header = ["estimator", "bias", "bias, canonical", "noise", "error", "error in the group", "pairs in order"]
    less = ["less likelihood", "estimate", "squared error", "squared error in the group", "pairs in order"]
    parts = [_preface(found), _table([*header, "tokens a trace", "time"], rows), _table(less, paired)]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def main(argv: list[str]) -> None:
    """The command."""
    files, bindings, rest = gin_config.parse_flags(argv)
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0], allow_abbrev=False)
    for field in dataclasses.fields(Sizes):
        if field.name != "temperatures":
            parser.add_argument(f"--{field.name}", type=int, default=field.default, help="default %(default)s")
    parser.add_argument("--temperatures", default="1,1.5", help="of the planner, times its own; default %(default)s")
    parser.add_argument("--out", type=Path, help="the markdown file to write")
    args = vars(parser.parse_args(rest))
    out, factors = args.pop("out"), args.pop("temperatures").split(",")
    try:
        sizes = Sizes(**args, temperatures=tuple(map(float, factors)))
    except ValueError:
        raise UserError(f"--temperatures must be numbers with commas between them, got {','.join(factors)}") from None
    text = report(compare(gin_config.load(config.Train, files, bindings).value, sizes))
    if out:
        out.write_text(text)
    print(text, end="")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"uplift_estimators: {error}")
