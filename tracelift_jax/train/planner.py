"""Planner training: one rollout, then policy-gradient updates on its stored log-probabilities.

rollout = sample, execute, verify, score, reward, advantage       rollout/rollout.py
loss    = GRPO(planner log-probabilities, rollout)                losses.grpo_loss
state   = AdamW(state, gradient of loss)                          update.update
"""

import dataclasses
import functools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from tracelift_jax.models.logprobs import shift, token_logprobs
from tracelift_jax.models.segment import expand
from tracelift_jax.models.transformer import Transformer
from tracelift_jax.parallel.jitted import Jitted
from tracelift_jax.rollout.batch import PromptBatch, Setup, Text, Weights
from tracelift_jax.rollout.execute import read
from tracelift_jax.rollout.rollout import Rollout, rollout
from tracelift_jax.text.spans import Tokens, splice
from tracelift_jax.train.health import mixed, rollout_metrics
from tracelift_jax.train.losses import GrpoConfig, Sums, grpo_loss
from tracelift_jax.train.update import Layouts, OptimizerConfig, TrainState, jit_step, make_optimizer, means, update


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PolicyBatch:
    """What a policy-gradient update needs of a rollout.

    Attributes:
        problem: [B, P] planner prompts, opening tag included. traces: [B, G, R].
        logprobs: float32 [B, G, R] of the sampler. advantage: float32 [B, G]. counted: bool [B, G].
    """

    problem: Tokens
    traces: Tokens
    logprobs: Array
    advantage: Array
    counted: Array


def policy_batch(setup: Setup, config: GrpoConfig, batch: PromptBatch, done: Rollout) -> PolicyBatch:
    """The part of a rollout that is learnt from."""
    problem, counted = splice((), batch.planner, setup.fixed.open), done.counted
    if config.groups == "mixed":
        counted = counted & mixed(done.verdicts[..., 0], counted)[:, None]
    return PolicyBatch(problem, done.traces, done.logprobs, done.advantage, counted)


def trace_logprobs(model: Transformer, variables: Any, batch: PolicyBatch, temperature: float) -> Array:
    """float32 [B, G, R] log-probabilities of the traces' tokens; each problem is encoded once for its group."""
    shown = read(model, variables, batch.problem)
    hidden, _ = model.apply(variables, batch.traces.ids, batch.traces.valid, shown.context)
    lead = batch.traces.ids.shape[:-1]
    before = jnp.broadcast_to(expand(shown.end, lead, trailing=1), (*lead, shown.end.shape[-1]))
    return token_logprobs(model, variables, shift(before, hidden), jnp.asarray(batch.traces.ids), temperature)


def policy_loss(
    setup: Setup, config: GrpoConfig, trainable: Any, frozen: Any, batch: PolicyBatch, key: Array
) -> tuple[tuple[Array, Array], Sums]:
    """GRPO on one (micro-)batch of groups, as (sum, weight), and its metrics.

    Args:
        trainable, frozen: the planner's variables; `frozen["reference"]` are its base's, for the KL penalty.
        key: unused; adapters are trained without dropout here, or the first pass's ratio would not be 1.
    """
    del key
    temperature = setup.planner_sampling.temperature or 1.0
    logprobs = trace_logprobs(setup.planner, {**frozen["planner"], **trainable}, batch, temperature)
    base = None
    if config.kl:
        base = jax.lax.stop_gradient(trace_logprobs(setup.reference, frozen["reference"], batch, temperature))
    mask = jnp.asarray(batch.traces.valid)
    return grpo_loss(logprobs, batch.logprobs, batch.advantage, mask, batch.counted, config, base)


@functools.lru_cache(maxsize=8)
def make_steps(
    setup: Setup,
    loss: GrpoConfig,
    optimizer_config: OptimizerConfig,
    passes: int,
    steps: int,
    layouts: Layouts | None = None,
):
    """The two jitted functions of a step; for the same arguments the same ones, which are compiled once.

    Args:
        passes: updates on each rollout; from the second on the ratio leaves 1.
        steps: rollouts in the whole run, for the learning-rate schedule.
        layouts: of the run's arrays on the mesh, or None for one device.

    Returns:
        The optimizer; `roll(weights, text, batch, key, step) -> Rollout`, the weights laid out as `Decoding` does; and
        `train(state, frozen, batch, rollout) -> (state, metrics)`, whose state is donated.
    """
    optimizer = make_optimizer(optimizer_config, steps * passes)
    loss_fn = partial(policy_loss, setup, loss)

    def roll(weights: Weights, text: Text, batch: PromptBatch, key: Array, step: Array) -> Rollout:
        return rollout(setup, text, weights, batch, jax.random.fold_in(key, step))

    def train(state: TrainState, frozen, batch: PromptBatch, done: Rollout):
        data = policy_batch(setup, loss, batch, done)
        metrics, gap = {}, {}
        for index in range(passes):
            key = jax.random.fold_in(state.key, index)
            state, metrics = update(loss_fn, optimizer, state, frozen, data, key, optimizer_config.accumulate)
            # Before the first update the two should agree: what differs is numerics, not learning.
            gap = gap or {name: metrics[name] for name in metrics if name.startswith("sampler/")}
        values = means(metrics | gap | rollout_metrics(done))
        return dataclasses.replace(state, step=state.step + 1), values

    return optimizer, Jitted(roll, layouts and layouts.batch), jit_step(train, layouts)
