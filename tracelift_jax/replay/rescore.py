"""Grades and likelihoods once more, by the frozen weights that a run had, on the tokens of its records."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from tracelift_jax.errors import UserError
from tracelift_jax.parallel.hosts import place_batch
from tracelift_jax.parallel.jitted import jitted
from tracelift_jax.parallel.mesh import check_batch, split_batch
from tracelift_jax.replay.read import Placed, Record
from tracelift_jax.replay.rebuild import Rebuilt
from tracelift_jax.rollout.batch import PromptBatch, Setup, Sizes, Weights, encode_problem
from tracelift_jax.rollout.reward_config import CodeRewardConfig, RewardConfig
from tracelift_jax.rollout.rollout import grade_traces, likelihoods, show, show_reasoning
from tracelift_jax.rollout.sample import Samples
from tracelift_jax.tasks.oracle import Tests
from tracelift_jax.tasks.problem import Problem
from tracelift_jax.text.spans import Tokens
from tracelift_jax.train.planner_loop import Train
from tracelift_jax.train.roles import load_roles

GRADES = {"rubric": "by the reward model", "total": "by the reward model"}
LIKELIHOODS = {"likelihood": "by the executor", "baseline_likelihood": "by the executor"}


def likelihoods_of(setup: Setup, weights: Weights, batch: PromptBatch, reason: Tokens) -> tuple[Array, Array]:
    """float32 [B, G] each, with reasoning [B, G, T] and without."""
    return likelihoods(setup, weights, *show(setup, weights, batch, reason), batch)


class Rescoring:
    """The reward model and the executor of a run.

    Attributes:
        fields: what is computed again, and how.
    """

    def __init__(self, config: Train, first: Placed):
        """Reads their weights.

        Args:
            first: a record, whose fingerprints they must have.

        Raises:
            UserError: they cannot be read, or are others.
        """
        roles = self._roles = config.roles
        measured = roles.reward.uplift == "likelihood"
        # What is rewarded plays no part here; and a reward of programs would want a sandbox.
        plain = RewardConfig("exec_only", uplift="likelihood" if measured else "none")
        self._loaded = loaded = load_roles(dataclasses.replace(roles, reward=plain), config.loss.normalize)
        self.check(*first)
        check_batch(loaded.mesh, "Train.batch_size", config.batch_size)
        planner, executor = {"params": loaded.planner.params}, {"params": loaded.executor.params}
        self._weights = loaded.decoding(Weights(planner, executor, loaded.reward_model))
        split = split_batch(loaded.mesh)
        self._reason = jitted(show_reasoning, loaded.setup, out_shardings=split)
        self._grade = jitted(grade_traces, loaded.setup, out_shardings=split)
        self._likelihoods = jitted(likelihoods_of, loaded.setup, out_shardings=split) if measured else None
        self.fields = GRADES | (LIKELIHOODS if measured else {})

    def check(self, where: str, record: Record) -> None:
        """Raises UserError where a record was made by other weights."""
        for name in sorted(set(record.weights) | set(self._loaded.fingerprints)):
            told, here = record.weights.get(name, "none"), self._loaded.fingerprints.get(name, "none")
            if told != here:
                raise UserError(
                    f"{where}: --rescore needs the weights of the run: fingerprint of {name} {told}, here {here}"
                )

    def __call__(self, groups: Sequence[Sequence[Placed]], rebuilt: Rebuilt) -> list[list[dict[str, Any]]]:
        """[B][G] what `fields` should hold; the whole batch at once, in the order and shapes of the run.

        Raises:
            UserError: a record was made by other weights, or a problem does not fit.
        """
        for group in groups:
            for where, record in group:
                self.check(where, record)
        batch = self._batch([group[0] for group in groups])
        traces, closed = place_batch((rebuilt.rollout.traces, rebuilt.closed), self._loaded.mesh)
        none = jnp.zeros(rebuilt.closed.shape, bool)
        samples = Samples(traces, rebuilt.rollout.logprobs, none.astype(jnp.int32), closed, none)
        reason = self._reason(self._loaded.text, samples)
        grades = jax.device_get(self._grade(self._weights, batch, reason))
        found: dict[str, np.ndarray] = {"rubric": grades.rubric, "total": grades.total}
        if self._likelihoods is not None:
            told = jax.device_get(self._likelihoods(self._weights, batch, reason))
            found |= zip(LIKELIHOODS, told, strict=True)
            if self._roles.reward.malformed == "fail":
                found["likelihood"] = np.where(rebuilt.rollout.well_formed, found["likelihood"], np.float32(0))
        traces_each = range(len(groups[0]))
        return [
            [{name: x[b, g].tolist() for name, x in found.items()} for g in traces_each] for b in range(len(groups))
        ]

    def _batch(self, firsts: Sequence[Placed]) -> PromptBatch:
        sizes = Sizes(self._roles.prompt_tokens, self._roles.answer_tokens)
        programs = isinstance(self._roles.reward, CodeRewardConfig)
        rows = []
        for index, (where, record) in enumerate(firsts):
            row = encode_problem(self._loaded.pieces, sizes, index, _problem(record, programs), programs)
            if row is None:
                raise UserError(f"{where}: the problem does not fit Roles.prompt_tokens and answer_tokens of the run")
            rows.append(row)
        return place_batch(jax.tree.map(lambda *leaves: np.stack(leaves), *rows), self._loaded.mesh)


def _problem(record: Record, programs: bool) -> Problem:
    """What the roles read of a problem; that a program has tests is all that is looked at here."""
    return Problem(
        record.problem_id,
        record.problem,
        record.reference,
        task_type=record.task_type,
        task_name=record.task_name,
        tests=record.examples,
        answer_kind="program" if programs else "number",
        oracle=Tests(inputs=("",), outputs=("",)) if programs else None,
    )
