"""The reward of code: METHOD's equations, one function each. `docs/code_reward.md` says what they can and cannot rank.

exec   = exec_reward(tests passed, tests, outcome)
coeff  = count_coefficient(right with the trace, right without)
reward = exec + 0.2 shaped(s, coeff), clipped to [0, 1] in the paper's code
"""

from collections.abc import Mapping

import jax.numpy as jnp
from jax import Array

from tracelift_jax.rollout.reward_config import CodeRewardConfig, ExecStyle
from tracelift_jax.rollout.shaping import shaped
from tracelift_jax.tasks.outcome import Outcome

_DEFAULT = CodeRewardConfig()

_RAN_TO_THE_END = (Outcome.PASSED, Outcome.FAILED_TEST, Outcome.WRONG_OUTPUT)
_STOPPED = (Outcome.RUNTIME_ERROR, Outcome.TIMEOUT, Outcome.MEMORY, Outcome.OUTPUT_LIMIT)
_ENDED_BADLY = (Outcome.DOES_NOT_COMPILE, Outcome.NO_PROGRAM)

_CODERL = {
    **dict.fromkeys(_RAN_TO_THE_END, -0.3),
    **dict.fromkeys(_STOPPED, -0.6),
    **dict.fromkeys(_ENDED_BADLY, -1.0),
    Outcome.PASSED: 1.0,
    Outcome.INFRASTRUCTURE: 0.0,  # which is masked: nobody looks at it
}
_HYBRID = {
    **dict.fromkeys(_RAN_TO_THE_END, 0.2),
    **dict.fromkeys(_STOPPED, 0.05),
    **dict.fromkeys(_ENDED_BADLY, 0.0),
    Outcome.INFRASTRUCTURE: 0.0,
}


def exec_reward(passed: Array, total: Array, outcome: Array, style: ExecStyle) -> Array:
    """The test result of a program as a number.

    "binary": 1 if all tests pass. "pass_rate": their share. "coderl": 1 passed, -0.3 failed test or wrong output, -0.6
    stopped by an error or a limit, -1 no program or none that compiles. "hybrid": 0.8 of the pass rate, and 0.2 if it
    ran to the end, 0.05 if it was stopped.

    Args:
        passed, total: int32 [...], tests passed and tests. outcome: int32 [...], `Outcome.code` of the whole.

    Returns:
        float32 [...]; of an outage 0, or the share that passed, which nobody should look at.
    """
    rate = jnp.asarray(passed, jnp.float32) / jnp.maximum(total, 1)
    match style:
        case "binary":
            return jnp.asarray(jnp.asarray(outcome) == Outcome.PASSED.code, jnp.float32)
        case "pass_rate":
            return rate
        case "coderl":
            return _table(_CODERL)[outcome]
        case "hybrid":
            return 0.8 * rate + _table(_HYBRID)[outcome]


def _table(values: Mapping[Outcome, float]) -> Array:
    return jnp.array([values[outcome] for outcome in Outcome], jnp.float32)


def tie_coefficient(count: Array, repeats: Array | int, table: Mapping[int, float] | None = None) -> Array:
    """What a trace is worth behind which the executor is right as often as without it.

    Args:
        count: int32 [...], right answers behind the trace. repeats: of so many, int32 [...] or one number.
        table: {count: coefficient} in place of what follows, for the counts that it has.

    Returns:
        float32 [...]: count / repeats, which is 0 for none and 1 for all; but 0.5 for 1 of 3. 0 where repeats is 0.
    """
    count, repeats = jnp.asarray(count), jnp.asarray(repeats)
    tie = count / jnp.maximum(repeats, 1).astype(jnp.float32)
    tie = jnp.where((count == 1) & (repeats == 3), 0.5, tie)
    for listed, coefficient in (table or {}).items():
        tie = jnp.where(count == listed, coefficient, tie)
    return jnp.where(repeats > 0, tie, 0.0).astype(jnp.float32)


def count_coefficient(
    right: Array,
    judged: Array | int,
    right_without: Array,
    judged_without: Array | int,
    table: Mapping[int, float] | None = None,
) -> Array:
    """1 where the executor is right more often with the trace than without, -1 where less often, else what a tie is.

    Of as many answers on both sides this compares counts, as METHOD does; of different numbers, because a baseline is
    cached or answers failed, the rates, exactly.

    Args:
        right: int32 [...], right answers behind the trace. judged: int32 [...] or one number, of so many.
        right_without, judged_without: the same without it; broadcast.
        table: see `tie_coefficient`.

    Returns:
        float32 [...] in [-1, 1]; 0 where one side has no judged answer.
    """
    right, judged = jnp.asarray(right, jnp.int32), jnp.asarray(judged, jnp.int32)
    right_without, judged_without = jnp.asarray(right_without, jnp.int32), jnp.asarray(judged_without, jnp.int32)
    sign = jnp.sign(right * judged_without - right_without * judged)
    coefficient = jnp.where(sign == 0, tie_coefficient(right, judged, table), sign)
    return jnp.where((judged > 0) & (judged_without > 0), coefficient, 0.0).astype(jnp.float32)


def clip_reward(reward: Array) -> Array:
    """The reward, clipped to [0, 1]."""
    return jnp.clip(reward, 0.0, 1.0)


def code_reward(executed: Array, score: Array, coefficient: Array, config: CodeRewardConfig = _DEFAULT) -> Array:
    """The reward of traces for programs, by `config.kind`.

    Args:
        executed: float32 [...], `exec_reward` of the primary sample. score: float32 [...] in [0, 1], the grade.
        coefficient: float32 [...] in [-1, 1], `count_coefficient`.

    Returns:
        float32 [...].
    """
    match config.kind:
        case "exec_only":
            return executed
        case "rm_only":
            quality = score
        case "uplift_only":
            quality = coefficient
        case "tracelift":
            quality = shaped(score, coefficient, config.shaping)
    reward = executed + config.weight * quality
    return clip_reward(reward) if config.clip_reward else reward
