"""`tracelift train-rm`: the rubric reward model, trained on same-problem groups.

Every step takes B groups of one positive and M - 1 flawed traces. The problem is encoded once for all its traces:

    problem [B, P] --- open trace close [B, M, T] --- grade at the last token [B, M]
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from tracelift_jax.checked import check_types, require
from tracelift_jax.groups.schema import Group
from tracelift_jax.groups.source import GroupSource
from tracelift_jax.models.build import LoraConfig, Model
from tracelift_jax.models.logprobs import token_logprobs
from tracelift_jax.models.segment import last_valid
from tracelift_jax.models.transformer import ModelConfig, Transformer
from tracelift_jax.parallel.hosts import from_first, place_batch, whole
from tracelift_jax.parallel.mesh import MeshConfig, check_batch
from tracelift_jax.rollout.evaluate import wilson
from tracelift_jax.rollout.score import grade_hidden, read_traces
from tracelift_jax.text.prompts import Pieces, Prompts
from tracelift_jax.text.spans import Tokens
from tracelift_jax.train.data import Encode, drawing_stream, eval_batches
from tracelift_jax.train.group_batch import GroupBatch, TooLong, encode_group, narrow
from tracelift_jax.train.losses import RewardModelLossConfig, Sums, dimension_loss, reward_model_loss
from tracelift_jax.train.process_bench import ProcessBench, read_solutions
from tracelift_jax.train.run import Parts, RunDir, Schedule, best_state, console, fit
from tracelift_jax.train.start import start
from tracelift_jax.train.trust_grade import Judge
from tracelift_jax.train.trust_report import REPORT, write_report
from tracelift_jax.train.update import (
    Layouts,
    OptimizerConfig,
    TrainState,
    jit_step,
    make_optimizer,
    require_divisible,
    supervised_step,
)


@dataclasses.dataclass(frozen=True)
class TrainRm:
    """`tracelift train-rm`: a reward model from groups.

    Attributes:
        groups: where groups come from. Each time one comes up, a positive and `negatives` of its negatives are drawn
            anew, without replacement, or with it where there are fewer. Groups without a negative are left out.
        negatives: how many. Held-out groups are read with their first positive and first negatives, always the same;
            where there are fewer, the first come again.
        held_out: where held-out groups come from (their test split); None: `groups`.
        model: what to start from, a base or a reward model, whose heads then go on too.
        lora: train an adapter (merged in the result), or None for all weights.
        tokenizer: its directory; empty: the model's.
        prompts: the words around problem and reasoning.
        prompt_tokens, trace_tokens: room for a framed problem and for a trace with its tags. Much room costs little:
            batches of shorter texts are computed at half of it, a quarter or an eighth.
        too_long: what is done where that is not enough (`train.group_batch` has the particulars). "leave_out": the
            group is left out. "cut_problem": the end of the problem's text is cut, never a trace: a group with a longer
            trace is left out. "reference": problem and trace together are cut on the right at prompt_tokens +
            trace_tokens, so that a long trace loses its end.
        batch_size: groups a step, over all devices.
        epochs: how many times over the training groups that fit: so many steps are trained, and `schedule.steps` must
            not be set. 0: `schedule.steps`.
        loss, optimizer, schedule, mesh, seed: how it is trained.
        evaluation_groups: held-out groups.
        result: which weights are written in the end, and reported on. "best": those of the evaluation with the highest
            group accuracy; where several have it, as all good ones have on easy groups, with the lowest mean absolute
            error of the score, which planners get as reward. "last": those after the last step.
        process_bench: first wrong steps to find, for the report behind the last step; None: none.
    """

    groups: GroupSource
    model: Model
    negatives: int = 4
    held_out: GroupSource | None = None
    lora: LoraConfig | None = None
    tokenizer: str = ""
    prompts: Prompts = Prompts()
    prompt_tokens: int = 66
    trace_tokens: int = 48
    too_long: TooLong = "leave_out"
    batch_size: int = 32
    epochs: int = 0
    loss: RewardModelLossConfig = RewardModelLossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: Schedule = Schedule()
    mesh: MeshConfig = MeshConfig()
    seed: int = 0
    evaluation_groups: int = 512
    result: Literal["best", "last"] = "best"
    process_bench: ProcessBench | None = None

    def __post_init__(self) -> None:
        check_types(self)
        for field in ("negatives", "prompt_tokens", "trace_tokens", "batch_size", "evaluation_groups"):
            require(getattr(self, field) >= 1, f"TrainRm.{field} must be at least 1, got {getattr(self, field)}")
        require(
            self.too_long != "reference" or self.trace_tokens >= 2,
            'TrainRm.trace_tokens must be at least 2 where TrainRm.too_long = "reference"',
        )
        require(self.epochs >= 0, f"TrainRm.epochs must not be negative, got {self.epochs}")
        require(
            not self.epochs or self.schedule.steps == Schedule.steps,
            f"TrainRm.epochs = {self.epochs} and Schedule.steps = {self.schedule.steps}: give one of the two",
        )
        require_divisible("TrainRm.batch_size", self.batch_size, self.optimizer)
        require(
            bool(self.tokenizer or self.model.path), "TrainRm.tokenizer must be set where TrainRm.model has no path"
        )


def group_loss(
    model: Transformer, config: RewardModelLossConfig, trainable: Any, frozen: Any, batch: GroupBatch, key: Array | None
) -> tuple[tuple[Array, Array], Sums]:
    """METHOD's four-part loss of one (micro-)batch, as (sum, weight); `key` None switches dropout off."""
    variables = {**frozen, **{name: value for name, value in trainable.items() if name != "heads"}}
    rngs = None if key is None else {"dropout": key}
    hidden = read_traces(model, variables, batch.problem, batch.traces, key is None, rngs)
    valid, labels, real = jnp.asarray(batch.traces.valid), jnp.asarray(batch.labels), jnp.asarray(batch.real)
    graded = grade_hidden(model, trainable["heads"], last_valid(hidden, valid))
    (loss, groups), metrics = reward_model_loss(graded, labels, jnp.asarray(batch.totals), config, real)
    if config.prefix:
        everywhere = grade_hidden(model, trainable["heads"], hidden)
        dense = dimension_loss(everywhere, prefix_labels(batch), config.dimension_loss)
        dense = (jnp.where(valid, dense, 0.0).sum((1, 2)) / valid.sum((1, 2)) * real).sum()
        loss = loss + config.prefix * dense
        metrics["loss/prefix"] = (dense, groups)
    if config.language:
        surprise = (positive_surprise(model, variables, hidden, batch.traces) * real).sum()
        loss = loss + config.language * surprise
        metrics["loss/language"] = (surprise, groups)
    return (loss, groups), metrics


def positive_surprise(model: Transformer, variables: Any, hidden: Array, traces: Tokens) -> Array:
    """float32 [B]: mean cross entropy of the positive trace's tokens behind its first."""
    ids, valid = jnp.asarray(traces.ids)[:, 0], jnp.asarray(traces.valid)[:, 0, 1:]
    logprobs = token_logprobs(model, variables, hidden[:, 0, :-1], ids[:, 1:])
    return -jnp.where(valid, logprobs, 0.0).sum(-1) / valid.sum(-1)


def prefix_labels(batch: GroupBatch) -> Array:
    """int32 [B, M, T, 5]: the positive's labels up to the token where a trace first differs from it, then its own."""
    ids, labels = jnp.asarray(batch.traces.ids), jnp.asarray(batch.labels)
    differs = jnp.cumsum(ids != ids[:, :1], axis=-1) > 0
    return jnp.where(differs[..., None], labels[:, :, None], labels[:, :1, None])


@functools.lru_cache(maxsize=8)
def make_steps(
    shape: ModelConfig,
    loss: RewardModelLossConfig,
    optimizer_config: OptimizerConfig,
    steps: int,
    layouts: Layouts | None = None,
):
    """The optimizer, the jitted train step and held-out metrics; for the same arguments the same, compiled once."""
    model = Transformer(shape, layouts.mesh if layouts else None)
    optimizer = make_optimizer(optimizer_config, steps)
    loss_fn = partial(group_loss, model, loss)

    train_step = jit_step(partial(supervised_step, loss_fn, optimizer, optimizer_config.accumulate), layouts)

    @jax.jit
    def held_out(state: TrainState, frozen: Any, batch: GroupBatch) -> Sums:
        loss, metrics = loss_fn(state.trainable, frozen, batch, None)
        return metrics | {"loss/total": loss}

    return optimizer, train_step, held_out


def held_out_metrics(sums: list[Sums]) -> dict[str, float]:
    """Means over all held-out groups, the group accuracy with its 95 % interval, and the root of the squared error."""
    totals: dict[str, np.ndarray] = {}
    for part in sums:
        for name, pair in part.items():
            totals[name] = totals.get(name, np.zeros(2)) + np.array(pair)
    out = {f"held_out/{name.removeprefix('score/')}": float(s / w) for name, (s, w) in totals.items()}
    out["held_out/rmse"] = out.pop("held_out/squared_error") ** 0.5
    right, groups = totals["score/group_accuracy"]
    out["held_out/group_accuracy_low"], out["held_out/group_accuracy_high"] = wilson(float(right), int(groups))
    return out | {"held_out/groups": float(groups)}


def with_steps(config: TrainRm, groups: Sequence[Group], encode: Encode[Group]) -> TrainRm:
    """`config` with the steps that its epochs take; as it is where it has none.

    Raises:
        UserError: no group fits.
    """
    if not config.epochs:
        return config
    fit = sum(encode(row, group) is not None for row, group in enumerate(groups))
    require(fit > 0, f"not one of the {len(groups)} training groups fits; raise the token limits")
    steps = math.ceil(config.epochs * fit / config.batch_size)
    console.print(f"{steps} steps: {config.epochs} times {fit} groups that fit, of {len(groups)}")
    return dataclasses.replace(config, epochs=0, schedule=dataclasses.replace(config.schedule, steps=steps))


def make_judge(config: TrainRm, pieces: Pieces, mesh: Mesh, model: Transformer, variables: Any, heads: Any) -> Judge:
    """A reward model that reads groups as `config` trains on them."""
    rooms = (config.prompt_tokens, config.trace_tokens, config.too_long, config.batch_size)
    return Judge(pieces, mesh, model, variables, heads, *rooms)


def run_train_rm(config: TrainRm, run: RunDir, stop_after: int | None = None) -> None:
    """Trains, or continues training, and writes the result to `RUN_DIR/model`, and an adapter to `RUN_DIR/adapter`.

    Beside them goes the report of `trust_report`, unless it is there.
    """
    if config.process_bench:
        read_solutions(config.process_bench.path)  # what is wrong with the file is said before the first step
    begin = start(config, graded=True)
    check_batch(begin.mesh, "TrainRm.batch_size", config.batch_size // config.optimizer.accumulate)
    encode = partial(
        encode_group,
        begin.pieces,
        config.prompt_tokens,
        config.trace_tokens,
        negatives=config.negatives,
        too_long=config.too_long,
    )
    groups = config.groups.groups("train")
    config = with_steps(config, groups, encode)
    _, train_step, held_out = make_steps(
        begin.shape, config.loss, config.optimizer, config.schedule.steps, begin.layouts
    )
    stream = drawing_stream(groups, batch_size=config.batch_size, seed=config.seed, encode=encode)
    held_out_groups = (config.held_out or config.groups).groups("test")
    test = eval_batches(held_out_groups, encode, config.batch_size, config.evaluation_groups)
    held = [place_batch(narrow(dataclasses.replace(batch, real=real)), begin.mesh) for batch, _, real in test]
    require(bool(held), "TrainRm.prompt_tokens and TrainRm.trace_tokens: no held-out group fits; raise them")

    def evaluate(state: TrainState) -> dict[str, float]:
        return held_out_metrics([whole(held_out(state, begin.frozen, batch)) for batch in held])

    def step(state: TrainState, batch: GroupBatch):
        return *train_step(state, begin.frozen, batch), None

    parts = Parts(
        step=step,
        batches=((place_batch(narrow(batch), begin.mesh), None) for batch in stream),
        left_out=stream.left_out,
        host_state=lambda: {"data": stream.get_state()},
        load_host_state=lambda host: stream.set_state(host["data"]),
        evaluate=evaluate,
        score="held_out/group_accuracy",
        tie="held_out/mae",
        headline={
            "loss/total": "loss",
            "score/pair_accuracy": "pairs",
            "score/group_accuracy": "groups",
            "score/mae": "mae",
        },
        memory=begin.memory(),
    )
    state = fit(run, config.schedule, begin.state, parts, stop_after)
    if int(state.step) == config.schedule.steps:
        state = best_state(run, config.schedule, state, parts) if config.result == "best" else state
        begin.save(run.path, state)
        if from_first(not (run.path / REPORT).exists()):
            weights = {name: value for name, value in state.trainable.items() if name != "heads"}
            judge = make_judge(
                config,
                begin.pieces,
                begin.mesh,
                Transformer(begin.shape, begin.mesh),
                begin.frozen | weights,
                state.trainable["heads"],
            )
            write_report(run.path, judge, held_out_groups, config.evaluation_groups, config.process_bench)
