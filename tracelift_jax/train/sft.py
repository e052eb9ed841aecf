"""Supervised fine-tuning: one base learns all that the roles need of it.

From each problem three things are learnt at once: to write reasoning, to answer behind it, and to answer without it.
The problem is encoded once, and the two branches hang below it:

    problem [B, P] --- branch 0:  open  REASONING close  ask  ANSWER end
                   \\-- branch 1:  ask_directly  ANSWER end

Only the tokens in capitals, with the closing tag and the end token, are predicted.

Where planner and executor read the problem in different words, as in chats, it is encoded once for each of the two:

    planner's problem  --- branch 0:  open  REASONING close
                       \\-- (nothing)
    executor's problem --- branch 0:  open  reasoning close  ask  ANSWER end
                       \\-- branch 1:  ask_directly  ANSWER end
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from tracelift_jax.checked import check_types, require
from tracelift_jax.models.build import LoraConfig, Model
from tracelift_jax.models.logprobs import shift, token_logprobs
from tracelift_jax.models.segment import expand, last_valid
from tracelift_jax.models.transformer import ModelConfig, Transformer
from tracelift_jax.parallel.hosts import place_batch, whole
from tracelift_jax.parallel.mesh import MeshConfig, check_batch
from tracelift_jax.tasks.problem import Problem, Task
from tracelift_jax.text.prompts import Pieces, Prompts, Role
from tracelift_jax.text.spans import Tokens, pad
from tracelift_jax.train.data import eval_batches, problem_stream
from tracelift_jax.train.losses import Sums
from tracelift_jax.train.run import Parts, RunDir, Schedule, best_state, fit
from tracelift_jax.train.start import start
from tracelift_jax.train.update import (
    Layouts,
    OptimizerConfig,
    TrainState,
    jit_step,
    make_optimizer,
    require_divisible,
    supervised_step,
)

BRANCHES = ("reasoned", "direct")


@dataclasses.dataclass(frozen=True)
class Sft:
    """`tracelift sft`: supervised fine-tuning of a base on a task's reference reasoning and answers.

    Attributes:
        task: where problems come from; they need reference reasoning.
        model: the base to start from. lora: train an adapter (merged in the result), or None for all weights.
        tokenizer: its directory; "assets/dial/tokenizer" is shipped.
        prompts: the words of the roles.
        prompt_tokens, branch_tokens: room for a problem and for what hangs below it; what does not fit is left out.
        batch_size: problems a step, over all devices.
        trace_weight: weight of the reasoning in the loss; 0 for a base that need only answer.
        direct_weight: weight of the answers without reasoning in the loss.
        optimizer, schedule, mesh, seed: how it is trained.
        evaluation_problems: held-out problems for the loss that is reported.
        result: which weights are written in the end: "best", those of the lowest held-out loss; or the "last".
    """

    task: Task
    tokenizer: str
    model: Model = Model()
    lora: LoraConfig | None = None
    prompts: Prompts = Prompts()
    prompt_tokens: int = 64
    branch_tokens: int = 64
    batch_size: int = 64
    trace_weight: float = 1.0
    direct_weight: float = 1.0
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: Schedule = Schedule()
    mesh: MeshConfig = MeshConfig()
    seed: int = 0
    evaluation_problems: int = 256
    result: Literal["best", "last"] = "best"

    def __post_init__(self) -> None:
        check_types(self)
        for field in ("prompt_tokens", "branch_tokens", "batch_size", "evaluation_problems"):
            require(getattr(self, field) >= 1, f"Sft.{field} must be at least 1, got {getattr(self, field)}")
        for field in ("trace_weight", "direct_weight"):
            require(getattr(self, field) >= 0, f"Sft.{field} must not be negative, got {getattr(self, field)}")
        require_divisible("Sft.batch_size", self.batch_size, self.optimizer)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SftBatch:
    """Problems with their branches.

    Attributes:
        problem: [B, P], or [B, 2, P] as planner and executor read it. branches: [B, 2, T] or [B, 2, 2, T].
        weight: float32, of the branches' shape, 0 where nothing is to be predicted.
    """

    problem: Tokens
    branches: Tokens
    weight: Array | np.ndarray


def encode(pieces: Pieces, config: Sft, index: int, problem: Problem) -> SftBatch | None:
    """One problem as arrays without B; None where it does not fit."""
    del index
    answer = pieces.answer(problem.answer)

    def reasoned(weight: float) -> list[tuple[Sequence[int], float]]:
        return [(pieces.open, 0.0), (pieces.trace(problem.reasoning), weight)]

    direct = [(pieces.ask_directly, 0.0), (answer, config.direct_weight)]
    if config.prompts.shared:
        readers: tuple[Role, ...] = ("planner",)
        branches = [[*reasoned(config.trace_weight), (pieces.ask, 0.0), (answer, 1.0)], direct]
    else:
        readers = ("planner", "executor")
        branches = [reasoned(config.trace_weight), [], [*reasoned(0.0), (pieces.ask, 0.0), (answer, 1.0)], direct]
    statements = [pieces.problem(role, problem) for role in readers]
    tokens = [[token for piece, _ in branch for token in piece] for branch in branches]
    if max(map(len, statements)) > config.prompt_tokens or max(map(len, tokens)) > config.branch_tokens:
        return None
    weight = np.zeros((len(branches), config.branch_tokens), np.float32)
    for row, branch in enumerate(branches):
        flat = [w for piece, w in branch for _ in piece]
        weight[row, : len(flat)] = flat
    shown = pad(statements, config.prompt_tokens, pieces.tokenizer.pad_id)
    below = pad(tokens, config.branch_tokens, pieces.tokenizer.pad_id)
    if config.prompts.shared:
        return SftBatch(Tokens(shown.ids[0], shown.valid[0]), below, weight)
    return SftBatch(shown, *jax.tree.map(lambda x: x.reshape(2, 2, -1), (below, weight)))


def sft_loss(
    model: Transformer, trainable: Any, frozen: Any, batch: SftBatch, key: Array
) -> tuple[tuple[Array, Array], Sums]:
    """Weighted cross entropy of the branches' tokens, as (sum, weight), and its parts by branch."""
    variables = {**frozen, **trainable}
    problem_key, branch_key = jax.random.split(key)

    def read(tokens: Tokens, context, key: Array):
        return model.apply(variables, tokens.ids, tokens.valid, context, deterministic=False, rngs={"dropout": key})

    hidden, segment = read(batch.problem, (), problem_key)
    end = last_valid(hidden, jnp.asarray(batch.problem.valid))
    below, _ = read(batch.branches, (segment,), branch_key)
    lead = batch.branches.ids.shape[:-1]
    states = shift(jnp.broadcast_to(expand(end, lead, trailing=1), (*lead, end.shape[-1])), below)
    losses = -token_logprobs(model, variables, states, jnp.asarray(batch.branches.ids))
    weight = jnp.asarray(batch.weight)
    metrics: Sums = {
        f"loss/{name}": ((losses * weight)[..., row, :].sum(), weight[..., row, :].sum())
        for row, name in enumerate(BRANCHES)
    }
    return ((losses * weight).sum(), weight.sum()), metrics


@functools.lru_cache(maxsize=8)
def make_steps(shape: ModelConfig, optimizer_config: OptimizerConfig, steps: int, layouts: Layouts | None = None):
    """The optimizer, the jitted train step and held-out loss; for the same arguments the same ones, compiled once.

    They map (state, frozen, batch) to (state, metrics), and to metrics.
    """
    mesh = layouts.mesh if layouts else None
    model = Transformer(shape, mesh)
    still = dataclasses.replace(shape, lora=dataclasses.replace(shape.lora, dropout=0.0) if shape.lora else None)
    quiet = Transformer(still, mesh)
    optimizer = make_optimizer(optimizer_config, steps)
    loss_fn = partial(sft_loss, model)
    train_step = jit_step(partial(supervised_step, loss_fn, optimizer, optimizer_config.accumulate), layouts)

    @jax.jit
    def held_out(state: TrainState, frozen: Any, batch: SftBatch) -> Sums:
        loss, metrics = sft_loss(quiet, state.trainable, frozen, batch, state.key)
        return metrics | {"loss/total": loss}

    return optimizer, train_step, held_out


def _evaluation(config: Sft, encode_one: Callable, held_out: Callable, frozen: Any, mesh: Mesh, size: int):
    batches = [
        place_batch(dataclasses.replace(batch, weight=(batch.weight.T * real).T), mesh)
        for batch, _, real in eval_batches(config.task.problems("test"), encode_one, size, config.evaluation_problems)
    ]

    def evaluate(state: TrainState) -> dict[str, float]:
        total: dict[str, np.ndarray] = {}
        for batch in batches:
            for name, pair in whole(held_out(state, frozen, batch)).items():
                total[name] = total.get(name, np.zeros(2)) + np.array(pair)
        losses = {f"held_out/{name}": float(s / w) for name, (s, w) in total.items() if w}
        return losses | {"held_out/score": -losses["held_out/loss/total"]}

    return evaluate


def run_sft(config: Sft, run: RunDir, stop_after: int | None = None) -> None:
    """Trains, or continues training, and writes the result to `RUN_DIR/model`, and an adapter to `RUN_DIR/adapter`."""
    begin = start(config, graded=False)
    check_batch(begin.mesh, "Sft.batch_size", config.batch_size // config.optimizer.accumulate)
    _, train_step, held_out = make_steps(begin.shape, config.optimizer, config.schedule.steps, begin.layouts)
    encode_one = partial(encode, begin.pieces, config)
    stream = problem_stream(
        config.task.problems("train"), batch_size=config.batch_size, seed=config.seed, encode=encode_one
    )

    def step(state: TrainState, batch: SftBatch):
        return *train_step(state, begin.frozen, batch), None

    parts = Parts(
        step=step,
        batches=((place_batch(batch, begin.mesh), None) for batch in stream),
        left_out=stream.left_out,
        host_state=lambda: {"data": stream.get_state()},
        load_host_state=lambda host: stream.set_state(host["data"]),
        evaluate=_evaluation(config, encode_one, held_out, begin.frozen, begin.mesh, config.batch_size),
        score="held_out/score",
        headline={"loss/reasoned": "reasoned", "loss/direct": "direct", "optimizer/gradient_norm": "|g|"},
        memory=begin.memory(),
    )
    state = fit(run, config.schedule, begin.state, parts, stop_after)
    if int(state.step) == config.schedule.steps:
        state = best_state(run, config.schedule, state, parts) if config.result == "best" else state
        begin.save(run.path, state)
