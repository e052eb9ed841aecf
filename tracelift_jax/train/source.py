"""Where a run's arrays come from: files and seeds; or nowhere, which leaves their shapes, dtypes and layouts.

Whatever a run compiles depends on the latter alone, so that `tracelift aot` compiles it without a byte of weights.
"""

import dataclasses
from typing import Any, Protocol, TypeVar

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh

from tracelift_jax.checked import require
from tracelift_jax.models import build
from tracelift_jax.models.build import Adapter, LoraConfig, Model
from tracelift_jax.models.fingerprint import fingerprint
from tracelift_jax.models.transformer import ModelConfig, abstract_variables
from tracelift_jax.parallel.hosts import place_everywhere
from tracelift_jax.parallel.mesh import MeshConfig, parameter_shardings, replicated, split_batch
from tracelift_jax.train.update import Layouts, TrainState, init_state, place_state

T = TypeVar("T")


class Source(Protocol):
    """Makes the arrays of a run, on its mesh."""

    @property
    def mesh(self) -> Mesh:
        """The devices."""
        ...

    def base(self, model: Model, shape: ModelConfig) -> Any:
        """A decoder's parameters."""
        ...

    def lora(self, lora: LoraConfig | Adapter, shape: ModelConfig, seed: int) -> Any:
        """An adapter, read or fresh; `shape.lora` is `build.lora_shape(lora)`."""
        ...

    def grader(
        self, model: Model | Adapter, base: tuple[ModelConfig, Any], tokens: int
    ) -> tuple[ModelConfig, tuple[Any, Any]]:
        """The shapes of a trained reward model and its (variables, heads); see `build.load_grader`."""
        ...

    def beginner(self, model: Model, shape: ModelConfig, seed: int) -> tuple[ModelConfig, Any, Any]:
        """Shape, parameters and heads of a reward model before training."""
        ...

    def master(self, params: Any) -> Any:
        """A planner's own copy of a base, in float32, to train all of it.

        Half precision would round small updates away, as with adapters; the model computes in `Model.dtype` all the
        same. The base stays what it is for the executor, and donation does not touch it.
        """
        ...

    def state(self, trainable: Any, optimizer: optax.GradientTransformation, seed: int) -> tuple[TrainState, Layouts]:
        """The state before the first step, and how it lies."""
        ...

    def everywhere(self, tree: T) -> T:
        """Small host arrays, the same on every device."""
        ...

    def fingerprint(self, *trees: Any) -> str:
        """Of parameters, for records."""
        ...


@dataclasses.dataclass(frozen=True)
class Real:
    """Reads files and draws from seeds.

    Raises:
        UserError: by all that reads: a path or checkpoint cannot be used.
    """

    mesh: Mesh
    layout: MeshConfig

    def base(self, model: Model, shape: ModelConfig) -> Any:
        """See `Source`."""
        return build.load_base(model, shape, self.mesh, self.layout)

    def lora(self, lora: LoraConfig | Adapter, shape: ModelConfig, seed: int) -> Any:
        """See `Source`."""
        return build.load_lora(lora, shape, seed, self.mesh, self.layout)

    def grader(
        self, model: Model | Adapter, base: tuple[ModelConfig, Any], tokens: int
    ) -> tuple[ModelConfig, tuple[Any, Any]]:
        """See `Source`."""
        require(bool(model.path), "Roles.reward_model needs a path: random weights grade nothing")
        return build.load_grader(model, base, tokens, self.mesh, self.layout)

    def beginner(self, model: Model, shape: ModelConfig, seed: int) -> tuple[ModelConfig, Any, Any]:
        """Those of the model's directory where it has heads, else its base with fresh ones."""
        if build.has_heads(model):
            require(not model.grow, f"Model.grow = {model.grow}: {model.path} is a reward model; only a base can grow")
            shape, _ = build.without_head(shape, {})
            return shape, *build.load_reward_model(model, shape, self.mesh, self.layout)
        shape, base = build.without_head(shape, self.base(model, shape))
        return shape, base, build.init_heads(shape, seed, self.mesh, self.layout)

    def master(self, params: Any) -> Any:
        """See `Source`."""
        return jax.tree.map(lambda x: x.copy() if x.dtype == jnp.float32 else x.astype(jnp.float32), params)

    def state(self, trainable: Any, optimizer: optax.GradientTransformation, seed: int) -> tuple[TrainState, Layouts]:
        """See `Source`."""
        return place_state(init_state(trainable, optimizer, seed), self.mesh)

    def everywhere(self, tree: T) -> T:
        """See `Source`."""
        return place_everywhere(tree, self.mesh)

    def fingerprint(self, *trees: Any) -> str:
        """See `Source`."""
        return fingerprint(*trees)


@dataclasses.dataclass(frozen=True)
class Abstract:
    """`jax.ShapeDtypeStruct`s with shardings in the place of arrays; of model directories, config files alone are read.

    Arrays that roles share are the same objects, as their likenesses in `Real` are the same buffers.
    """

    mesh: Mesh
    layout: MeshConfig

    def _laid_out(self, boxed: Any) -> Any:
        shardings = parameter_shardings(boxed, self.mesh, self.layout.rules)
        return jax.tree.map(_like, nn.meta.unbox(boxed), shardings)

    def base(self, model: Model, shape: ModelConfig) -> Any:
        """See `Source`."""
        del model
        build.check_attention(shape, self.mesh)
        return self._laid_out(abstract_variables(shape)["params"])

    def lora(self, lora: LoraConfig | Adapter, shape: ModelConfig, seed: int) -> Any:
        """See `Source`."""
        del lora, seed
        return self._laid_out(abstract_variables(shape)["lora"])

    def grader(
        self, model: Model | Adapter, base: tuple[ModelConfig, Any], tokens: int
    ) -> tuple[ModelConfig, tuple[Any, Any]]:
        """See `Source`."""
        if isinstance(model, Adapter):
            shape = dataclasses.replace(base[0], lora=build.lora_shape(model))
            return shape, ({"params": base[1], "lora": self.lora(model, shape, 0)}, self._heads(shape))
        shape, _ = build.without_head(build.model_config(model, tokens), {})
        return shape, ({"params": self.base(model, shape)}, self._heads(shape))

    def beginner(self, model: Model, shape: ModelConfig, seed: int) -> tuple[ModelConfig, Any, Any]:
        """See `Source`."""
        del seed
        shape, _ = build.without_head(shape, {})
        return shape, self.base(model, shape), self._heads(shape)

    def _heads(self, shape: ModelConfig) -> Any:
        return self._laid_out(build.abstract_heads(shape))

    def master(self, params: Any) -> Any:
        """See `Source`."""
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32, sharding=x.sharding), params)

    def state(self, trainable: Any, optimizer: optax.GradientTransformation, seed: int) -> tuple[TrainState, Layouts]:
        """See `Source`."""
        same = replicated(self.mesh)

        def init(trainable: Any) -> TrainState:
            return init_state(trainable, optimizer, seed)

        drawn = jax.eval_shape(init, trainable)
        # Moments lie as what they are of; counts lie everywhere.
        moments = optax.tree.map_params(
            optimizer,
            lambda moment, parameter: _like(moment, parameter.sharding),
            drawn.opt_state,
            trainable,
            transform_non_params=lambda x: _like(x, same),
        )
        step: Any = _like(drawn.step, same)
        key: Any = _like(drawn.key, same)
        state = TrainState(trainable, moments, step, key)
        return state, Layouts(jax.tree.map(lambda x: x.sharding, state), split_batch(self.mesh), same)

    def everywhere(self, tree: T) -> T:
        """See `Source`."""
        return jax.tree.map(lambda x: _like(x, replicated(self.mesh)), tree)

    def fingerprint(self, *trees: Any) -> str:
        """See `Source`."""
        del trees
        return "of no weights"


def _like(x: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
