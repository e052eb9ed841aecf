"""What to change where an experiment does not fit a machine, with what each change should come to.

Estimates scale what is known of the compiled programs: what is alive by how it is split, temporaries by how many
problems are computed at once. They are no promises; compiling with the change is one.
"""

import dataclasses
from collections.abc import Callable, Iterator

import jax.numpy as jnp

from tracelift_jax.models.build import Model
from tracelift_jax.models.transformer import ModelConfig
from tracelift_jax.parallel.memory import readable
from tracelift_jax.train.aot import Compiled, Report
from tracelift_jax.train.planner_loop import Train
from tracelift_jax.train.programs import Experiment

_TIMES = (2, 4, 8, 16)


@dataclasses.dataclass(frozen=True)
class Change:
    """A change, and the bytes that the program that takes most takes with it."""

    what: str
    bytes: float


def advise(experiment: Experiment, report: Report) -> list[str]:
    """Changes of which each alone should make `experiment` fit, the least of each kind; none where it fits."""
    if report.fits:
        return []
    changes = sorted(_changes(experiment, report), key=lambda change: -change.bytes)
    enough: dict[str, str] = {}
    for one in changes:
        if one.bytes <= report.limit:  # the least of each kind will do
            enough.setdefault(one.what.partition(" = ")[0], f"{one.what}: about {readable(int(one.bytes))}")
    if enough:
        return list(enough.values())
    least = [f"{one.what}: about {readable(int(one.bytes))}, not enough alone" for one in changes[::-1][:2]]
    return [*least, "more chips, or chips with more memory"]


def _changes(experiment: Experiment, report: Report) -> Iterator[Change]:
    mesh, shapes, batch = report.mesh, report.shapes, experiment.batch_size
    name, parts = type(experiment).__name__, experiment.optimizer.accumulate
    shards, update = mesh["data"] * mesh["fsdp"], report.programs[-1]

    def most(change: Callable[[Compiled], float]) -> float:
        """Of all programs, each less what `change` takes off it."""
        return max(each.bytes - change(each) for each in report.programs)

    def temporaries(each: Compiled) -> float:
        return each.memory.temporaries if each.memory else 0.0

    def alive(each: Compiled) -> float:
        return each.memory.alive if each.memory else report.kept

    for more in _TIMES:
        less = 1 - 1 / more
        if batch % (parts * more) == 0 and batch // (parts * more) % shards == 0:
            saved = most(lambda each, less=less: less * temporaries(each) * (each is update))
            yield Change(f"OptimizerConfig.accumulate = {parts * more}", saved)
        if batch % (more * parts) == 0 and batch // (more * parts) % shards == 0:
            saved = most(lambda each, less=less: less * temporaries(each))
            yield Change(f"{name}.batch_size = {batch // more}", saved)
        tensor = mesh["tensor"] * more
        if shards % more == 0 and all(s.heads % tensor == 0 and s.kv_heads % tensor == 0 for s in shapes):
            yield Change(f"MeshConfig.tensor = {tensor}", most(lambda each, less=less: less * alive(each)))
        fsdp = mesh["fsdp"] * more
        if mesh["data"] % more == 0 and all(s.width % fsdp == 0 for s in shapes):
            # A rollout decodes with copies whole over D; laying them out takes them twice, gathered and laid out.
            copies = 0 if report.moved else report.weights
            saved = most(lambda each, less=less, copies=copies: less * report.kept - copies * (each is not update))
            laid_out = report.kept / more + 2 * copies
            yield Change(f"MeshConfig.fsdp = {fsdp}", max(saved, laid_out))
    model = _frozen(experiment)
    if model is not None and model.weights == "float":
        saved = _projections(shapes[0]) * (1 - 1 / jnp.dtype(model.param_dtype).itemsize)
        saved /= mesh["fsdp"] * mesh["tensor"]
        yield Change('Model.weights = "int8"', most(lambda each: saved))


def _frozen(experiment: Experiment) -> Model | None:
    """The base, where it is not trained."""
    if isinstance(experiment, Train):
        return experiment.roles.base if experiment.roles.lora else None
    return experiment.model if experiment.lora else None


def _projections(shape: ModelConfig) -> float:
    """Bytes of the kernels that int8 makes smaller."""
    attention = 2 * shape.width * (shape.heads + shape.kv_heads) * shape.head_width
    return float(shape.layers * (attention + 3 * shape.width * shape.ff_width) * jnp.dtype(shape.param_dtype).itemsize)
