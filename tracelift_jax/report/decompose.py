"""What rewards are made of: the part of the outcome, and the part of the quality, by the equations of training.

Each part is the reward's own equation with the other part's quantities at 0, so that

    reward = outcome + quality + rest

where the rest is what clipping took away, or 0.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from tracelift_jax.report.runs import Record
from tracelift_jax.report.sample import Group
from tracelift_jax.rollout.code_reward import code_reward, count_coefficient, exec_reward
from tracelift_jax.rollout.reward import math_reward
from tracelift_jax.rollout.reward_config import CodeRewardConfig, RewardConfig
from tracelift_jax.tasks.outcome import Outcome

_CLASSES = {"RewardConfig": RewardConfig, "CodeRewardConfig": CodeRewardConfig}


@dataclasses.dataclass(frozen=True)
class Parts:
    """The parts of n rewards, float32 [n] each; coefficient: of programs, what the uplift's counts are worth."""

    outcome: np.ndarray
    quality: np.ndarray
    coefficient: np.ndarray | None


def reward_config(config: Mapping[str, Any]) -> RewardConfig | None:
    """The reward's settings in a run's `config.json`; None where it has none that are known here."""
    said = config.get("roles", {}).get("reward")
    if not isinstance(said, Mapping) or said.get("__class__") not in _CLASSES:
        return None
    made = _CLASSES[said["__class__"]]
    known = {field.name for field in dataclasses.fields(made)}
    fields = {name: value for name, value in said.items() if name != "__class__"}
    if not set(fields) <= known:
        return None  # of another version, with other equations perhaps
    if "tie_table" in fields:
        fields["tie_table"] = tuple(map(tuple, fields["tie_table"]))
    return made(**fields)


def decompose(records: Sequence[Record], config: RewardConfig) -> Parts:
    """The parts of the rewards of records."""
    score = np.array([record["score"] for record in records], np.float32)
    nothing = np.zeros_like(score)
    if isinstance(config, CodeRewardConfig):
        plain = dataclasses.replace(config, clip_reward=False)
        with_it = jnp.array([record["with_counts"] for record in records], jnp.int32)
        without = jnp.array([record["without_counts"] for record in records], jnp.int32)
        table = dict(config.tie_table)
        worth = np.asarray(count_coefficient(with_it[:, 0], with_it[:, 1], without[:, 0], without[:, 1], table))
        outcome = _executed(records, config)
        quality = code_reward(jnp.asarray(nothing), jnp.asarray(score), jnp.asarray(worth), plain)
        return Parts(outcome, np.asarray(quality), worth)
    right = np.array([record["verdicts"][0] == "ok" for record in records], np.float32)
    gained = np.array([record["uplift"] for record in records], np.float32)
    none = jnp.asarray(nothing)
    outcome = math_reward(jnp.asarray(right), none, none, config)
    quality = math_reward(none, jnp.asarray(score), jnp.asarray(gained), config)
    return Parts(np.asarray(outcome), np.asarray(quality), None)


def _executed(records: Sequence[Record], config: CodeRewardConfig) -> np.ndarray:
    """float32 [n], `exec_reward` of the primary programs."""
    passed, total, outcome = np.zeros((3, len(records)), np.int32)
    for place, record in enumerate(records):
        if config.malformed == "fail" and not record["well_formed"]:
            told, tests = Outcome.NO_PROGRAM, (0, 1)
        elif record["outcomes"][0] is None:
            told, tests = Outcome.INFRASTRUCTURE, (0, 1)  # no answer came
        else:
            told, tests = Outcome(record["outcomes"][0]), record["tests"][0]
        outcome[place], (passed[place], total[place]) = told.code, tests
    return np.asarray(exec_reward(jnp.asarray(passed), jnp.asarray(total), jnp.asarray(outcome), config.exec_style))


def by_step(groups: Sequence[Group], parts: Parts) -> dict[str, list[float | int | None]]:
    """Means over the counted traces of each step, as `reward/mean` is one.

    Args:
        parts: of the groups' records in order.

    Returns:
        Columns step, traces (how many counted), outcome, quality, rest and reward; means are None where none counted,
        or one is not finite.
    """
    steps = np.array([group.step for group in groups for _ in group.records], np.int64)
    records = [record for group in groups for record in group.records]
    reward = np.array([record["reward"] for record in records], np.float64)
    counted = np.array([record["counted"] for record in records], bool)
    outcome, quality = parts.outcome.astype(np.float64), parts.quality.astype(np.float64)
    columns = {"outcome": outcome, "quality": quality, "rest": reward - outcome - quality, "reward": reward}
    out: dict[str, list[float | int | None]] = {name: [] for name in ("step", "traces", *columns)}
    for step in np.unique(steps):
        here = (steps == step) & counted
        out["step"].append(int(step))
        out["traces"].append(int(here.sum()))
        for name, values in columns.items():
            mean = values[here].mean() if here.any() else np.nan
            out[name].append(float(mean) if np.isfinite(mean) else None)
    return out
