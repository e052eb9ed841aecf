"""What is settled stays settled, under every reward; and rewards of one's own."""

import dataclasses
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import assert_same

from tracelift_jax.config import CodeRewardConfig, RewardConfig
from tracelift_jax.errors import UserError
from tracelift_jax.rollout.own_reward import Facts
from tracelift_jax.rollout.result import Rollout, Uplift
from tracelift_jax.rollout.settle import Settling, settled
from tracelift_jax.text.spans import Tokens

B, G, R = 5, 4, 6
KINDS = ("tracelift", "exec_only", "rm_only", "uplift_only")
CONFIGS = [
    RewardConfig(kind, uplift=uplift, shaping=shaping, malformed=malformed)
    for kind, uplift, shaping, malformed in itertools.product(
        KINDS, ("sampled", "likelihood"), ("product", "sign_aware"), ("fail", "execute", "mask")
    )
] + [
    CodeRewardConfig(kind, exec_style=style, clip_reward=clip, tie_table=((1, 0.25),))
    for kind, style, clip in itertools.product(KINDS, ("coderl", "hybrid"), (False, True))
]


@functools.cache
def facts(seed: int = 0) -> Rollout:
    """Random facts, as a rollout has them before it is settled; some verdicts failed."""
    rng: Any = np.random.default_rng(seed)

    def real(*shape: int) -> Any:
        return rng.random((B, G, *shape)).astype(np.float32)

    trials, base = rng.integers(0, 4, (2, B, G)).astype(np.int32)
    none: Any = np.zeros((B, G, 0), np.int32)
    nothing, zeros = Tokens(none, none.astype(bool)), 0 * real()
    ok, base_ok = (np.minimum(rng.integers(0, 4, (B, G)), n).astype(np.int32) for n in (trials, base))
    filled: Any = np.arange(B)[:, None].repeat(G, 1) < B - 1
    return Rollout(
        traces=Tokens(rng.integers(0, 9, (B, G, R)).astype(np.int32), rng.random((B, G, R)) < 0.7),
        logprobs=zeros,
        well_formed=rng.random((B, G)) < 0.7,
        answers=nothing,
        verdicts=rng.integers(-1, 2, (B, G, 4)).astype(np.int8),
        uplift=Uplift(zeros, ok, trials, base_ok, base, nothing, real(), real()),
        rubric=4 * real(5),
        total=real(),
        score=zeros,
        reward=zeros,
        advantage=zeros,
        counted=filled,
        executed=real(),
    )


@pytest.mark.parametrize("config", CONFIGS[::3], ids=str)
def test_to_settle_twice_changes_no_bit(config):
    """So a record, which is settled, is what `tracelift replay` must find when it settles it."""
    settle = Settling(config, "std")
    once = settle(facts())
    assert_same(jax.device_get(settle(jax.device_get(once))), jax.device_get(once))
    assert float(jnp.abs(once.advantage).sum()) > 1 and not np.asarray(once.counted)[-1].any()


@pytest.mark.parametrize("config", CONFIGS[1::9], ids=str)
def test_in_a_larger_program_only_rounding_differs(config):
    within = jax.jit(lambda done: settled(config, "none", done))(facts())
    apart = Settling(config, "none")(facts())
    for a, b in zip(jax.tree.leaves(within), jax.tree.leaves(apart), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_a_malformed_trace_is_never_right_and_its_grade_is_nothing():
    done = jax.device_get(Settling(RewardConfig(malformed="fail"), "std")(facts()))
    bad = ~done.well_formed
    assert bad.any() and not done.score[bad].any() and not done.verdicts[bad].any() and done.score[~bad].all()
    np.testing.assert_array_equal(done.uplift.value[bad], -done.uplift.baseline_likelihood[bad])
    np.testing.assert_allclose(done.reward[bad], -0.5 * done.uplift.baseline_likelihood[bad], atol=1e-7)


@dataclasses.dataclass(frozen=True)
class Short:
    """1 for a right answer, less what the tokens cost."""

    cost: float = 0.125

    def reward(self, facts: Facts):
        return facts.right - self.cost * facts.traces.valid.sum(-1)


def test_a_reward_of_ones_own():
    config = RewardConfig(uplift="none", malformed="execute", own=Short())
    done = Settling(config, "std")(facts())
    right, tokens = facts().verdicts[..., 0] == 1, facts().traces.valid.sum(-1)
    np.testing.assert_array_equal(done.reward, right - 0.125 * tokens)
    assert not config.needs_grade and not config.needs_uplift


def test_of_programs_it_is_given_what_their_tests_say():
    @dataclasses.dataclass(frozen=True)
    class Sum:
        def reward(self, facts: Facts):
            return facts.right + 2 * facts.uplift + 4 * facts.score

    config = CodeRewardConfig(own=Sum(), malformed="execute")
    parts = [Settling(dataclasses.replace(config, own=None, kind=kind, weight=1.0), "std") for kind in KINDS[1:]]
    executed, graded, coefficient = (settle(facts()).reward for settle in parts)
    wanted = executed + 2 * (coefficient - executed) + 4 * (graded - executed)
    np.testing.assert_allclose(Settling(config, "std")(facts()).reward, wanted, atol=1e-5)
    assert config.needs_uplift


def test_where_it_is_given_an_uplift_the_trace_must_have_one():
    sampled = Settling(RewardConfig(uplift="sampled", own=Short()), "std")(facts())
    plain = Settling(RewardConfig(uplift="none", own=Short()), "std")(facts())
    gained = facts().uplift
    judged = (gained.trials > 0) & (gained.baseline_trials > 0)
    np.testing.assert_array_equal(sampled.counted, np.asarray(plain.counted) & judged)
    assert not judged.all()


def test_rewards_that_are_none():
    @dataclasses.dataclass(frozen=True)
    class Flat:
        def reward(self, facts: Facts):
            return facts.right.mean(-1)

    @dataclasses.dataclass
    class Loose:
        def reward(self, facts: Facts):
            return facts.right

    with pytest.raises(UserError, match=r"^Flat\.reward must give float32 \[5, 4\] .* got float32 \[5\]"):
        Settling(RewardConfig(own=Flat()), "std")(facts())
    with pytest.raises(UserError, match=r"^RewardConfig\.own must be hashable: make Loose a frozen dataclass$"):
        RewardConfig(own=Loose())
    with pytest.raises(UserError, match=r"^RewardConfig\.own: expected OwnReward or None, got 3 \(int\)"):
        RewardConfig(own=3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="with parentheses"):
        RewardConfig(own=Short)  # pyright: ignore[reportArgumentType]
