"""One optimizer update, the same for all trainers: accumulate (sum, weight) gradients, divide once, AdamW."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh, NamedSharding

from tracelift_jax.checked import check_types, require
from tracelift_jax.parallel.hosts import place
from tracelift_jax.parallel.jitted import Jitted
from tracelift_jax.parallel.mesh import replicated, split_batch
from tracelift_jax.train.losses import Sums


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with a schedule and gradient clipping.

    Attributes:
        learning_rate: the peak. warmup: updates of linear rise from 0; warmup_share: the same as a share of all
            updates, rounded up.
        schedule: from the peak on: "constant", or "cosine" or "linear" decay towards `final` times the peak, which
            the update after the last would have.
        final: the end of a decay, as a share of the peak.
        weight_decay: decoupled, on tensors of two or more axes (not counting stacked layers).
        clip_norm: largest global gradient norm; 0 clips nothing.
        b1, b2, epsilon: AdamW's constants.
        accumulate: micro-batches a batch is split into, to fit memory; changes nothing but rounding.
    """

    learning_rate: float = 1e-3
    warmup: int = 0
    warmup_share: float = 0.0
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    final: float = 0.0
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    b1: float = 0.9
    b2: float = 0.999
    epsilon: float = 1e-8
    accumulate: int = 1

    def __post_init__(self) -> None:
        check_types(self)
        require(self.learning_rate > 0, f"OptimizerConfig.learning_rate must be above 0, got {self.learning_rate}")
        require(self.warmup >= 0, f"OptimizerConfig.warmup must not be negative, got {self.warmup}")
        require(0 <= self.warmup_share < 1, f"OptimizerConfig.warmup_share must lie in [0, 1), got {self.warmup_share}")
        require(
            not (self.warmup and self.warmup_share),
            f"OptimizerConfig.warmup = {self.warmup} and warmup_share = {self.warmup_share}: give one of the two",
        )
        require(self.clip_norm >= 0, f"OptimizerConfig.clip_norm must not be negative, got {self.clip_norm}")
        require(self.accumulate >= 1, f"OptimizerConfig.accumulate must be at least 1, got {self.accumulate}")


def require_divisible(name: str, batch_size: int, optimizer: OptimizerConfig) -> None:
    """Refuses a batch that does not split into the optimizer's micro-batches."""
    parts = optimizer.accumulate
    require(
        batch_size % parts == 0, f"{name} must be a multiple of OptimizerConfig.accumulate = {parts}, got {batch_size}"
    )


def learning_rate(config: OptimizerConfig, updates: int) -> optax.Schedule:
    """The learning rate of each update, of `updates` in all."""
    warmup = config.warmup or math.ceil(config.warmup_share * updates)
    rest = max(updates - warmup, 1)
    match config.schedule:
        case "constant":
            after = optax.constant_schedule(config.learning_rate)
        case "cosine":
            after = optax.cosine_decay_schedule(config.learning_rate, rest, config.final)
        case "linear":
            after = optax.linear_schedule(config.learning_rate, config.learning_rate * config.final, rest)
    if not warmup:
        return after
    # The first update is already worth taking: rise from 1/warmup, not from 0.
    rise = optax.linear_schedule(config.learning_rate / warmup, config.learning_rate, max(warmup - 1, 1))
    return optax.join_schedules([rise, after], [warmup])


def _decayed(path: tuple, leaf: Array) -> bool:
    """Matrices decay; scales and biases, stacked over layers or not, do not."""
    return leaf.ndim >= 2 and getattr(path[-1], "key", None) not in ("scale", "bias", "dimension_bias")


def make_optimizer(config: OptimizerConfig, updates: int) -> optax.GradientTransformation:
    """AdamW as configured, for a run of `updates` updates."""
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    adamw = optax.adamw(
        learning_rate(config, updates),
        b1=config.b1,
        b2=config.b2,
        eps=config.epsilon,
        weight_decay=config.weight_decay,
        mask=lambda tree: jax.tree_util.tree_map_with_path(_decayed, tree),
    )
    return optax.chain(clip, adamw)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that an update changes.

    Attributes:
        trainable: variable collections being trained, for example {"lora": ...} or {"params": ...}.
        opt_state: the optimizer's.
        step: int32 scalar, batches done so far.
        key: typed PRNG key; each step uses `fold_in(key, step)`.
    """

    trainable: Any
    opt_state: Any
    step: Array
    key: Array


def init_state(trainable: Any, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """The state before the first step."""
    return TrainState(trainable, optimizer.init(trainable), jnp.int32(0), jax.random.key(seed))


LossFn = Callable[[Any, Any, Any, Array], tuple[tuple[Array, Array], Sums]]
"""(trainable, frozen, batch, key) to the loss as (sum, weight), and metrics as {name: (sum, weight)}."""


def accumulated_gradients(loss_fn: LossFn, trainable: Any, frozen: Any, batch: Any, key: Array, parts: int):
    """Gradient of sum(loss sums) / sum(weights) over `parts` equal micro-batches, and summed metrics.

    Every leaf of `batch` has leading axis B, divisible by `parts`. Weights must not depend on the parameters.
    """

    def summed(trainable: Any, batch: Any, key: Array):
        (total, weight), metrics = loss_fn(trainable, frozen, batch, key)
        return total, (weight, metrics | {"loss/total": (total, weight)})

    gradient = jax.grad(summed, has_aux=True)
    if parts == 1:
        grads, (weight, metrics) = gradient(trainable, batch, key)
    else:
        # Strided micro-batches: each takes its share from every device's rows, so nothing moves between devices.
        split = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch)

        def body(carry, part):
            new = gradient(trainable, *part)
            return jax.tree.map(jnp.add, carry, new), None

        keys = jax.random.split(key, parts)
        first = jax.tree.map(lambda x: x[0], (split, keys))
        zeros = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(lambda p: gradient(trainable, *p), first)
        )
        (grads, (weight, metrics)), _ = jax.lax.scan(body, zeros, (split, keys))
    scale = 1 / jnp.maximum(weight, 1e-8)
    return jax.tree.map(lambda g: (g * scale).astype(g.dtype), grads), metrics


def update(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    frozen: Any,
    batch: Any,
    key: Array,
    parts: int,
) -> tuple[TrainState, Sums]:
    """One optimizer update on `batch`; `state.step` is left to the caller (a batch may be passed over twice)."""
    grads, metrics = accumulated_gradients(loss_fn, state.trainable, frozen, batch, key, parts)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.trainable)
    trainable = optax.apply_updates(state.trainable, updates)
    metrics["optimizer/gradient_norm"] = (optax.tree.norm(grads), jnp.float32(1))
    metrics["optimizer/update_norm"] = (optax.tree.norm(updates), jnp.float32(1))
    metrics["optimizer/update_ratio"] = (optax.tree.norm(updates), optax.tree.norm(state.trainable))
    return dataclasses.replace(state, trainable=trainable, opt_state=opt_state), metrics


@dataclasses.dataclass(frozen=True, eq=False)
class Layouts:
    """Where arrays live on the mesh: the state as it lies, batches split by problem, the rest whole everywhere."""

    state: Any
    batch: NamedSharding
    same: NamedSharding

    @property
    def mesh(self) -> Mesh:
        """The devices."""
        return cast(Mesh, self.batch.mesh)

    def _key(self) -> tuple[Any, ...]:
        leaves, tree = jax.tree.flatten(self.state)
        return (*leaves, tree, self.batch, self.same)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layouts) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())


def place_state(state: TrainState, mesh: Mesh) -> tuple[TrainState, Layouts]:
    """The state on the mesh (what is not laid out yet goes everywhere), and the layouts of a run."""
    same = replicated(mesh)

    def layout(x: Array) -> Any:
        spread = isinstance(x.sharding, NamedSharding) and x.sharding.mesh == mesh
        return x.sharding if spread else same

    layouts = Layouts(jax.tree.map(layout, state), split_batch(mesh), same)
    return place(state, layouts.state), layouts


def jit_step(step: Callable, layouts: Layouts | None) -> Jitted:
    """Jits `step(state, ...) -> (state, metrics)`: the state is donated and stays where it is."""
    # Fixed layouts: the state that comes out is laid out like the one that went in, so nothing compiles twice.
    return Jitted(step, layouts and (layouts.state, layouts.same), donate=True)


def supervised_step(
    loss_fn: LossFn, optimizer: optax.GradientTransformation, parts: int, state: TrainState, frozen: Any, batch: Any
) -> tuple[TrainState, dict[str, Array]]:
    """One step of supervised training: an update and its metrics."""
    key = jax.random.fold_in(state.key, state.step)
    state, sums = update(loss_fn, optimizer, state, frozen, batch, key, parts)
    return dataclasses.replace(state, step=state.step + 1), means(sums)


def means(metrics: Sums) -> dict[str, Array]:
    """{name: sum / weight}; nan where nothing was counted."""
    return {name: jnp.where(weight > 0, total / weight, jnp.nan) for name, (total, weight) in metrics.items()}
