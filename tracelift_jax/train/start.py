"""What supervised runs begin with: one model, whole or with an adapter, and for reward models its heads."""

import dataclasses
from pathlib import Path
from typing import Any, Protocol

from jax.sharding import Mesh

from tracelift_jax.checked import require
from tracelift_jax.models import build
from tracelift_jax.models.build import LoraConfig, Model
from tracelift_jax.models.transformer import ModelConfig
from tracelift_jax.parallel.memory import device_bytes
from tracelift_jax.parallel.mesh import MeshConfig, make_mesh
from tracelift_jax.text.prompts import Pieces, Prompts
from tracelift_jax.text.tokenizer import Tokenizer
from tracelift_jax.train.result import Trained, write_adapter, write_model
from tracelift_jax.train.run import Schedule, console
from tracelift_jax.train.source import Real, Source
from tracelift_jax.train.update import Layouts, OptimizerConfig, TrainState, make_optimizer


class Supervised(Protocol):
    """The part that `Sft` and `TrainRm` have in common."""

    @property
    def model(self) -> Model:
        """What is trained."""
        ...

    @property
    def tokenizer(self) -> str:
        """Its directory; empty: the model's."""
        ...

    @property
    def lora(self) -> LoraConfig | None:
        """The adapter to train; None trains all weights."""
        ...

    @property
    def prompts(self) -> Prompts:
        """The words of all roles."""
        ...

    @property
    def optimizer(self) -> OptimizerConfig:
        """How weights change."""
        ...

    @property
    def schedule(self) -> Schedule:
        """How long, and what happens when."""
        ...

    @property
    def mesh(self) -> MeshConfig:
        """The devices."""
        ...

    @property
    def seed(self) -> int:
        """Of all that is drawn."""
        ...


@dataclasses.dataclass(frozen=True)
class Start:
    """A run before its first step.

    Attributes:
        shape: of the model, with its adapter. base: its parameters before training. origin: where they came from.
        state: trainable `params` or `lora`, and `heads` of a reward model. frozen: the rest of the variables.
    """

    tokenizer: Tokenizer
    pieces: Pieces
    mesh: Mesh
    shape: ModelConfig
    base: Any
    origin: Path | None
    frozen: Any
    state: TrainState
    layouts: Layouts

    def memory(self) -> dict[str, int]:
        """Bytes on the fullest device; what a step computes with comes on top."""
        trainable = self.state.trainable
        return device_bytes(
            {
                "base": self.base,
                "adapter and heads": {name: trainable[name] for name in trainable if name != "params"},
                "optimizer": self.state.opt_state,
            }
        )

    def trained(self, state: TrainState) -> Trained:
        """What there is after training."""
        return Trained(self.shape, self.base, state.trainable, self.origin, self.tokenizer)

    def save(self, path: Path, state: TrainState) -> None:
        """Writes `path/adapter`, where one was trained, and `path/model`, unless the base is int8."""
        if self.shape.lora:
            written = write_adapter(path / "adapter", self.trained(state))
            console.print(f"wrote {path / 'adapter'} (fingerprint {written})")
        if self.shape.weights == "float":
            console.print(f"wrote {path / 'model'} (fingerprint {write_model(path / 'model', self.trained(state))})")


def start(config: Supervised, graded: bool) -> Start:
    """Reads the model of a run onto the mesh and makes what is trained; see `start_from`."""
    return start_from(config, graded, Real(make_mesh(config.mesh), config.mesh))


def start_from(config: Supervised, graded: bool, source: Source) -> Start:
    """A run before its first step, with the arrays of `source`.

    Args:
        graded: a reward model: with heads, and without an output projection.

    Raises:
        UserError: a path, checkpoint or tokenizer cannot be used.
    """
    require(
        config.lora is not None or config.model.weights == "float",
        f'{type(config).__name__}.lora must be set where Model.weights = "int8": int8 weights cannot be trained',
    )
    folders = build.folders(config.model)
    tokenizer = Tokenizer.load(build.find(config.tokenizer or config.model.path), *folders)
    shape, heads = build.model_config(config.model, len(tokenizer)), None
    if graded:
        shape, base, heads = source.beginner(config.model, shape, config.seed)
    else:
        base = source.base(config.model, shape)
    shape = dataclasses.replace(shape, lora=config.lora)
    trainable, frozen = {"params": base}, {}
    if config.lora:
        trainable, frozen = {"lora": source.lora(config.lora, shape, config.seed)}, {"params": base}
    if graded:
        trainable["heads"] = heads
    optimizer = make_optimizer(config.optimizer, config.schedule.steps)
    origin = folders[0] if folders else None
    state, layouts = source.state(trainable, optimizer, config.seed)
    pieces = Pieces(config.prompts, tokenizer)
    return Start(tokenizer, pieces, source.mesh, shape, base, origin, frozen, state, layouts)
