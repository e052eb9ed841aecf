"""`tracelift export`: what a run trained, as a directory that `transformers` or `peft` loads."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from tracelift_jax.errors import UserError
from tracelift_jax.models import build
from tracelift_jax.models.build import Model
from tracelift_jax.parallel.mesh import MeshConfig, make_mesh
from tracelift_jax.text.tokenizer import Tokenizer
from tracelift_jax.train.checkpoint import find_run, restore_trained
from tracelift_jax.train.planner_loop import Train
from tracelift_jax.train.result import Trained, write_adapter, write_model
from tracelift_jax.train.reward_model import TrainRm
from tracelift_jax.train.run import console
from tracelift_jax.train.sft import Sft
from tracelift_jax.train.source import Real
from tracelift_jax.train.start import start
from tracelift_jax.train.update import make_optimizer

Experiment = Train | TrainRm | Sft
KINDS: dict[str, type[Experiment]] = {"Train": Train, "TrainRm": TrainRm, "Sft": Sft}


def run_kind(run_dir: Path) -> type[Experiment]:
    """Which experiment a run directory holds.

    Raises:
        UserError: its config.json is damaged.
    """
    file = run_dir / "config.json"
    try:
        return KINDS[json.loads(file.read_text())["__class__"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{run_dir}: holds no run (no readable config.json); give a directory of a training run"
        ) from error


def run_export(
    load: Callable[[type[Experiment], Sequence[str]], Experiment], run_dir: str, out: str, adapter: bool
) -> None:
    """Writes a checkpoint's weights to `out`, with the tokenizer: the newest's, or the best's where that is the result.

    Args:
        load: reads gin files into an experiment of that kind.
        adapter: the adapter alone, in PEFT's format, instead of the whole model with it merged in.

    Raises:
        UserError: `run_dir` holds no run or no checkpoint, `out` is not empty, or there is no adapter to write.
    """
    folder, target = Path(run_dir), Path(out)
    file, _ = find_run(folder)
    kind = run_kind(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{out}: is not an empty directory; choose another --out")
    config = load(kind, [str(file)])
    lora = config.roles.lora if isinstance(config, Train) else config.lora
    if adapter and not lora:
        raise UserError(f"{run_dir}: trained all weights, so there is no adapter; export it without --adapter")
    step, trained = _planner(config, folder) if isinstance(config, Train) else _supervised(config, folder)
    written = (write_adapter if adapter else write_model)(target, trained)
    what = "adapter" if adapter else "model"
    console.print(f"wrote {target}: the {what} after step {step} of {run_dir} (fingerprint {written})")


def _plain(model: Model) -> Model:
    """Whatever the run trained on, an adapter is merged into the weights that its base was made from, on any device."""
    return dataclasses.replace(model, weights="float", attention="xla", remat="full")


def _planner(config: Train, folder: Path) -> tuple[int, Trained]:
    """A planner needs neither executor nor reward model to be exported, and no mesh but what is there."""
    roles = config.roles
    model = _plain(roles.planner_model or roles.base)
    tokenizer = Tokenizer.load(build.find(roles.tokenizer or roles.base.path), *build.folders(model))
    layout = MeshConfig()
    source = Real(make_mesh(layout), layout)
    shape = build.model_config(model, len(tokenizer))
    base = source.base(model, shape)
    shape = dataclasses.replace(shape, lora=build.lora_shape(roles.lora))
    trainable = {"params": source.master(base)}
    if roles.lora:
        trainable = {"lora": build.init_lora(shape, config.seed, source.mesh, layout)}
    optimizer = make_optimizer(config.optimizer, config.schedule.steps * config.passes)
    like, _ = source.state(trainable, optimizer, config.seed)
    step, restored = restore_trained(folder, like)
    return step, Trained(shape, base, restored, _origin(model), tokenizer)


def _supervised(config: Sft | TrainRm, folder: Path) -> tuple[int, Trained]:
    model = _plain(config.model)
    config = dataclasses.replace(config, mesh=MeshConfig(), model=model)
    begin = start(config, graded=isinstance(config, TrainRm))
    step, restored = restore_trained(folder, begin.state, best=config.result == "best")
    return step, begin.trained(dataclasses.replace(begin.state, trainable=restored))


def _origin(model: Model) -> Path | None:
    return build.find(model.path) if model.path else None
