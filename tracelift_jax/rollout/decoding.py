"""The layout in which a rollout decodes: each weight laid out anew at most once a rollout, however many roles use it.

Between steps weights lie as updates want them, for example split over D. A decode step reads all of them for few
tokens, so it must not wait for weights of other devices: before a rollout they are gathered, in the dtype they are
computed with. Where that changes nothing, the arrays stay the same arrays.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, Sharding

from tracelift_jax.models.transformer import Transformer, abstract_variables
from tracelift_jax.parallel.mesh import Rules, parameter_shardings, replicated
from tracelift_jax.rollout.batch import Setup, Weights

_COMPUTED = ("kernel", "bias", "embedding", "head")
"""Parameters that the model casts to its compute dtype where it uses them; norms' scales stay as they are."""


@dataclasses.dataclass(frozen=True)
class Wanted:
    """How an array is to lie."""

    dtype: jnp.dtype
    sharding: Sharding

    def met_by(self, x: Any) -> bool:
        """Whether an array, or its abstract likeness, lies so."""
        return x.dtype == self.dtype and x.sharding.is_equivalent_to(self.sharding, x.ndim)


class Decoding:
    """Lays out the weights of one setup."""

    def __init__(self, setup: Setup, mesh: Mesh, rules: Rules):
        """Looks at shapes only.

        Raises:
            UserError: see `parameter_shardings`.
        """
        self._mesh = mesh
        models = {id(model): model for model in (setup.planner, setup.executor, setup.reward_model) if model}
        shardings = {key: parameter_shardings(abstract_variables(m.config), mesh, rules) for key, m in models.items()}
        self._roles = [
            (model, shardings[id(model)]) if model else None
            for model in (setup.planner, setup.executor, setup.reward_model)
        ]
        self._moves: dict[tuple[Wanted, ...], Any] = {}

    def __call__(self, weights: Weights) -> Weights:
        """The same weights as a rollout decodes with them; arrays that several roles share are laid out once."""
        leaves, tree, moving = self._moving(weights)
        if not moving:
            return weights
        arrays, goals = zip(*moving.values(), strict=True)
        moved = dict(zip(moving, self._move(goals)(arrays), strict=True))
        return jax.tree.unflatten(tree, [moved.get(id(x), x) for x in leaves])

    def lower(self, weights: Weights) -> tuple[Any, Weights]:
        """Of abstract weights: the lowered function that lays them out, None where nothing moves; and the result."""
        leaves, tree, moving = self._moving(weights)
        if not moving:
            return None, weights
        arrays, goals = zip(*moving.values(), strict=True)
        after = {key: jax.ShapeDtypeStruct(x.shape, to.dtype, sharding=to.sharding) for key, (x, to) in moving.items()}
        return self._move(goals).lower(arrays), jax.tree.unflatten(tree, [after.get(id(x), x) for x in leaves])

    def _moving(self, weights: Weights) -> tuple[list[Any], Any, dict[int, tuple[Any, Wanted]]]:
        """Leaves and structure of `weights`, and by identity the arrays that lie otherwise than wanted."""
        leaves, tree = jax.tree.flatten(weights)
        pairs = zip(leaves, self._wanted(weights), strict=True)
        return leaves, tree, {id(x): (x, to) for x, to in pairs if not to.met_by(x)}

    def _move(self, goals: Sequence[Wanted]) -> Any:
        key = tuple(goals)
        if key not in self._moves:

            def move(arrays: tuple[Any, ...]) -> tuple[Any, ...]:
                return tuple(x.astype(to.dtype) for x, to in zip(arrays, key, strict=True))

            self._moves[key] = jax.jit(move, out_shardings=tuple(to.sharding for to in key))
        return self._moves[key]

    def _wanted(self, weights: Weights) -> list[Wanted]:
        """Of each leaf of `weights`, in order."""
        planner, executor, grader = self._roles
        graded = weights.reward_model
        heads = None if graded is None else jax.tree.map(lambda x: Wanted(x.dtype, replicated(self._mesh)), graded[1])
        wanted = Weights(
            planner=_of(planner, weights.planner),
            executor=_of(executor, weights.executor),
            reward_model=None if graded is None else (_of(grader, graded[0]), heads),
        )
        return jax.tree.leaves(wanted, is_leaf=lambda x: isinstance(x, Wanted))


def _of(role: tuple[Transformer, Any] | None, variables: Any) -> Any:
    """A role's variables with `Wanted` in place of its arrays."""
    assert role is not None
    model, shardings = role

    def wanted(path: Any, x: Any, sharding: Sharding) -> Wanted:
        # A dictionary's key; the parts of an int8 kernel have names of their own.
        cast = path[0].key == "params" and getattr(path[-1], "key", None) in _COMPUTED
        return Wanted(jnp.dtype(model.config.dtype) if cast else x.dtype, sharding)

    kept = {collection: shardings[collection] for collection in variables}
    return jax.tree_util.tree_map_with_path(wanted, variables, kept)
