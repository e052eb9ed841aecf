"""More executor samples where a group is undecided.

    fall   = expected fall of the squared error of a trace's success rate      [B, G]
    chosen = the M groups whose traces have most of it                         [M]
    more   = sample(executor | problem, reason, ask) behind those              [M, G, E, A]

After the first K samples a success rate has a Beta posterior, Jeffreys' prior updated by the counts: a = right + 1/2,
b = wrong + 1/2, n = a + b, variance ab / (n^2 (n + 1)). E further samples are expected to leave n / (n + E) of that
variance (the mean of the posterior variance over what the samples may say), so the fall is E / (n + E) of it. The sum
over a group is what its ranking gains: everything else in a group's uplifts is shared, or known.

What is looked at to choose also counts, so rates are drawn a little away from 1/2 (docs/uplift.md says how far).

How many groups depends on nothing but shapes, so the step stays one program; which ones, and what is drawn, on counts
and the key alone, so it is the same on any number of devices.
"""

import math

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from tracelift_jax.models.segment import Segment
from tracelift_jax.parallel.mesh import BATCH_AXES, batch_shards
from tracelift_jax.rollout.batch import PromptBatch, Setup, Text
from tracelift_jax.rollout.execute import Shown, answers
from tracelift_jax.rollout.reward import FAILED, RewardConfig, success_rate
from tracelift_jax.text.spans import Tokens

_GRID = 2.0**20
"""Falls are compared in whole parts of this: sums of whole numbers do not depend on how a compiler orders them, and the
same groups are chosen on any number of devices."""


def chosen_groups(batch: int, share: float) -> int:
    """M, how many of B groups get further samples: `share` of them, rounded up."""
    return math.ceil(share * batch - 1e-9)  # 0.7 * 10 is a little over 7


def undecided(ok: Array, trials: Array, matters: Array, more: int) -> Array:
    """int32 [B], how much `more` samples a trace are expected to tell about a group; 0: nothing that matters.

    Args:
        ok, trials: int32 [B, G], right and judged samples so far.
        matters: bool [B, G], traces whose success rate moves an advantage.
    """
    right, n = ok + 0.5, trials + 1.0
    fall = right * (n - right) / (n * n * (n + 1.0)) * (more / (n + more))
    return jnp.where(matters, jnp.round(fall * _GRID), 0.0).astype(jnp.int32).sum(-1)


def rates_that_matter(config: RewardConfig, well_formed: Array, real: Array) -> Array:
    """bool [B, G], traces whose success rate moves an advantage.

    Not so of malformed ones, unless they are executed like any other; nor in groups in which fewer than two traces
    are learnt from.

    Args:
        well_formed: bool [B, G]. real: bool [B].
    """
    executed = well_formed | (config.malformed == "execute")
    learnt_from = (executed | (config.malformed == "fail")) & real[:, None]
    return executed & learnt_from & (learnt_from.sum(-1, keepdims=True) >= 2)


def _rows(setup: Setup, shown: Shown, batch: PromptBatch, index: Array) -> tuple[Shown, PromptBatch]:
    """Some problems, int32 [M], and what was read of them, split over the devices like the whole batch."""

    def take(x: Array, axis: int = 0) -> Array:
        rows = jnp.take(jnp.asarray(x), index, axis=axis, mode="clip")
        if setup.mesh is None:
            return rows
        # Left to itself, the compiler has every device draw for all of them.
        return jax.lax.with_sharding_constraint(
            rows, NamedSharding(setup.mesh, PartitionSpec(*(None,) * axis, BATCH_AXES))
        )

    context = tuple(Segment(take(s.k, 1), take(s.v, 1), take(s.valid)) for s in shown.context)
    return Shown(context, take(shown.end)), jax.tree.map(take, batch)


def ask_further(
    setup: Setup,
    text: Text,
    variables,
    shown: Shown,
    said: Tokens,
    verdicts: Array,
    matters: Array,
    batch: PromptBatch,
    key: Array,
) -> tuple[Tokens, Array, Array]:
    """Draws E further samples for every trace of the most undecided groups.

    Args:
        shown: the traces as read, leading axes [B, G]. said: [B, G, 1 + K, A]. verdicts: int8 [B, G, 1 + K].
        matters: see `rates_that_matter`.

    Returns:
        Answers [B, G, 1 + K + E, A]; verdicts int8 [B, G, 1 + K + E], FAILED where nothing was asked, so that those
        are in no count; and bool [B, G, 1 + K + E], what was asked.
    """
    config, (size, group) = setup.reward, shown.end.shape[:2]
    open_question = undecided(*success_rate(verdicts[..., 1:]), matters, config.adaptive)
    count = chosen_groups(size, config.adaptive_share)
    # Rounded up to what splits over the devices; what is drawn for groups beyond `count` is not looked at.
    shards = batch_shards(setup.mesh) if setup.mesh is not None else 1
    most, chosen = jax.lax.top_k(open_question, -(-count // shards) * shards)
    few, problems = _rows(setup, shown, batch, chosen)
    drawn, judged = answers(setup, text, variables, few, config.adaptive, problems, key)
    among = (most > 0) & (jnp.arange(len(chosen)) < count)
    asked = jnp.broadcast_to(among[:, None, None], judged.shape)

    def back(values: Array, empty: Array | int) -> Array:
        """[M, G, E, ...] at their places in [B, G, E, ...]."""
        whole = jnp.full((size, *values.shape[1:]), empty, values.dtype)
        return whole.at[chosen].set(values, unique_indices=True)

    more = Tokens(back(drawn.ids, 0), back(drawn.valid & asked[..., None], False))
    first = jnp.ones((size, group, said.ids.shape[2]), bool)
    return (
        Tokens(jnp.concatenate([said.ids, more.ids], 2), jnp.concatenate([said.valid, more.valid], 2)),
        jnp.concatenate([verdicts, back(jnp.where(asked, judged, FAILED).astype(jnp.int8), FAILED)], 2),
        jnp.concatenate([first, back(asked, False)], 2),
    )
