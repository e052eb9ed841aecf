"""What an experiment compiles, from shapes alone: one lowered program for each function that a step calls."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from tracelift_jax.checked import require
from tracelift_jax.errors import UserError
from tracelift_jax.groups.schema import Group, Rubric, Trace
from tracelift_jax.models.build import Model, Shape
from tracelift_jax.models.transformer import ModelConfig
from tracelift_jax.parallel.memory import device_bytes
from tracelift_jax.parallel.mesh import check_batch, make_mesh, split_batch
from tracelift_jax.rollout.batch import PromptBatch, Sizes, Weights, encode_problem
from tracelift_jax.rollout.caches import cache_bytes
from tracelift_jax.rollout.judging import judge_answers
from tracelift_jax.tasks.oracle import Tests
from tracelift_jax.tasks.problem import Problem
from tracelift_jax.train import reward_model, sft
from tracelift_jax.train.group_batch import encode_group
from tracelift_jax.train.planner_loop import Train, begin
from tracelift_jax.train.reward_model import TrainRm
from tracelift_jax.train.roles import Loaded, make_roles
from tracelift_jax.train.sft import Sft
from tracelift_jax.train.source import Abstract
from tracelift_jax.train.start import start_from

Experiment = Train | Sft | TrainRm


@dataclasses.dataclass(frozen=True)
class Program:
    """A function of a step.

    Attributes:
        name: what it does. lowered: ready to compile.
        weights: the names of its arguments that hold weights, as the compiled text begins their names.
        alive: bytes on a device of its arguments and of what stays beside them while it runs.
    """

    name: str
    lowered: Any
    weights: tuple[str, ...]
    alive: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """All that an experiment keeps and compiles, on a mesh that need not exist.

    Attributes:
        resident: bytes on a device between steps, by what they hold.
        weights: how much of that is weights that stay as they are.
        caches: bytes of keys and values that a rollout holds at most; part of its programs' temporaries.
        moved: bytes of the copies that a rollout decodes with.
        shapes: of the models, the base first.
    """

    mesh: Mesh
    programs: Sequence[Program]
    resident: Mapping[str, int]
    weights: int
    caches: int
    moved: int
    shapes: Sequence[ModelConfig]


def plan(experiment: Experiment, devices: Sequence[Any]) -> Plan:
    """Traces what `experiment` compiles for `devices`; reads configuration and tokenizer, no weights and no data.

    Raises:
        UserError: the mesh, the batch or a path does not fit, or a model has neither path nor shape.
    """
    for model in models_of(experiment):
        require(
            bool(model.path) or model.shape != Shape(),
            "Model.path is empty and Model.shape is not set: give --gin.BASE=DIR, or a file of experiments/shapes",
        )
    if isinstance(experiment, Train):
        return _planner(experiment, devices)
    return _supervised(experiment, devices)


def models_of(experiment: Experiment) -> list[Model]:
    """Those that it names, the base first."""
    if not isinstance(experiment, Train):
        return [experiment.model]
    roles = experiment.roles
    named = (roles.base, roles.planner_model, roles.executor_model, roles.reward_model)
    return [model for model in named if isinstance(model, Model)]


def _planner(config: Train, devices: Sequence[Any]) -> Plan:
    roles = config.roles
    mesh = make_mesh(roles.mesh, devices)
    check_batch(mesh, "Train.batch_size", config.batch_size // config.optimizer.accumulate)
    loaded = make_roles(roles, config.loss.normalize, Abstract(mesh, roles.mesh), judge_answers)
    begun = begin(config, loaded)
    state, frozen = begun.state, begun.frozen
    lying = Weights({**frozen["planner"], **state.trainable}, frozen["executor"], loaded.reward_model)
    layout, weights = loaded.decoding.lower(lying)
    text, batch = loaded.text, prompt_batch(config, loaded)
    everything = (state, frozen, loaded.reward_model, text, batch)
    between, during = _bytes(everything), _bytes((everything, weights))
    programs = []
    if layout is not None:
        programs.append(Program("lay out weights", layout, ("arrays",), between))
    if begun.elsewhere is None:
        arguments = (weights, text, batch, begun.sampling_key, state.step)
        done = _laid_out(begun.roll.eval_shape(*arguments), mesh)
        lowered = {"rollout": begun.roll.lower(*arguments)}
    else:
        lowered, done = begun.elsewhere.lower(text, weights, batch, begun.sampling_key)
    programs += [Program(name, each, ("shared.weights",), during) for name, each in lowered.items()]
    update = begun.train.lower(state, frozen, batch, done)
    programs.append(Program("update", update, ("donated.trainable", "shared.frozen"), _bytes((everything, done))))
    resident = loaded.memory(state.trainable, state.opt_state, config.batch_size)
    resident.pop("key-value caches, at most")
    caches = cache_bytes(loaded.setup, roles.prompt_tokens, config.batch_size // _shards(mesh))
    moved = device_bytes({"before": lying, "moved": weights})["moved"]
    kept = _bytes((frozen, loaded.reward_model))
    setup = loaded.setup
    models = [setup.executor, setup.planner, setup.reward_model]
    shapes = [model.config for model in models if model is not None]
    return Plan(mesh, programs, resident, kept, max(caches.values()), moved, shapes)


def _bytes(tree: Any) -> int:
    """On a device; what is in several places of the tree counts once."""
    return device_bytes({"all": tree})["all"]


def _shards(mesh: Mesh) -> int:
    return mesh.shape["data"] * mesh.shape["fsdp"]


def prompt_batch(config: Train, loaded: Loaded) -> PromptBatch:
    """The shapes of a batch.

    Raises:
        UserError: no problem fits.
    """
    roles = config.roles
    problem = Problem("shape", "", "0", oracle=Tests(checks=("pass",)))
    sizes = Sizes(roles.prompt_tokens, roles.answer_tokens)
    row = encode_problem(loaded.pieces, sizes, 0, problem, programs=loaded.programs)
    if row is None:
        raise UserError(
            f"Roles.prompt_tokens = {sizes.prompt} and Roles.answer_tokens = {sizes.answer} have no room for the words "
            "around a problem; raise them"
        )
    return _batch(row, config.batch_size, loaded.mesh)


def _supervised(config: Sft | TrainRm, devices: Sequence[Any]) -> Plan:
    mesh = make_mesh(config.mesh, devices)
    name = type(config).__name__
    check_batch(mesh, f"{name}.batch_size", config.batch_size // config.optimizer.accumulate)
    begun = start_from(config, isinstance(config, TrainRm), Abstract(mesh, config.mesh))
    if isinstance(config, TrainRm):
        trace = Trace("", Rubric((0, 0, 0, 0, 0), 0.0))
        group = Group("shape", "", "math", "", "", (trace,), (trace,))
        rooms = (config.prompt_tokens, config.trace_tokens)
        row = encode_group(begun.pieces, *rooms, 0, group, negatives=config.negatives)
        steps = reward_model.make_steps(
            begun.shape, config.loss, config.optimizer, config.schedule.steps, begun.layouts
        )
    else:
        row = sft.encode(begun.pieces, config, 0, Problem("shape", "", "0"))
        steps = sft.make_steps(begun.shape, config.optimizer, config.schedule.steps, begun.layouts)
    if row is None:
        raise UserError(f"{name}: the token limits have no room for the words around a problem; raise them")
    batch = _batch(row, config.batch_size, mesh)
    lowered = steps[1].lower(begun.state, begun.frozen, batch)
    update = Program(
        "update", lowered, ("donated.trainable", "shared.frozen"), _bytes((begun.state, begun.frozen, batch))
    )
    return Plan(mesh, [update], begun.memory(), _bytes(begun.frozen), 0, 0, [begun.shape])


def _batch(row: Any, size: int, mesh: Mesh) -> Any:
    """`size` rows of the shape of one, split like a batch."""
    whole = jax.tree.map(lambda x: np.broadcast_to(x, (size, *np.shape(x))), row)
    return _laid_out(whole, mesh)


def _laid_out(tree: Any, mesh: Mesh) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=split_batch(mesh)), tree)
