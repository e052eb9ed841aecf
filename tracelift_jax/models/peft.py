"""PEFT adapters, in and out: LoRA trees, and a reward model's heads beside them, as directories that `peft` loads."""

import dataclasses
import json
import math
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tracelift_jax.errors import UserError
from tracelift_jax.models.einsum import Lora
from tracelift_jax.models.hf_config import read_json
from tracelift_jax.models.hf_layout import PROJECTIONS, head_shapes, heads_from_files, heads_to_files, projection_axes
from tracelift_jax.models.tensor_files import TensorFiles
from tracelift_jax.models.transformer import ModelConfig
from tracelift_jax.parallel.hosts import first, whole

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_NAMES = sorted(name.rpartition(".")[2] for name in PROJECTIONS.values())
_HEADS = [name.removesuffix(".weight") for name in head_shapes(1) if name.endswith(".weight")]

_UNSET = (
    "fan_in_fan_out",
    "use_dora",
    "lora_bias",
    "rank_pattern",
    "alpha_pattern",
    "target_parameters",
    "trainable_token_indices",
    "layer_replication",
    "alora_invocation_tokens",
    "use_qalora",
    "monteclora_config",
    "use_bdlora",
    "arrow_config",
    "kasa_config",
)
"""Keys of `adapter_config.json` with which an adapter computes something else than scale * B A x."""
_OTHER_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Values of `init_lora_weights` that begin by changing the base: such an adapter belongs to weights stored nowhere."""
_MEND = "not supported; merge the adapter into its base with peft and use the merged model"


@dataclasses.dataclass(frozen=True)
class _Module:
    """One adapted projection of one layer.

    Attributes:
        path: its keys below `blocks`. layer: its index on the stacked axis.
        name: what `transformers` calls it.
        inputs, outputs: sizes of the axes it contracts and of those it makes.
    """

    path: tuple[str, ...]
    layer: int
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    def tensors(self, rank: int) -> dict[str, tuple[str, tuple[int, int]]]:
        """Name and shape in the file of our halves "a" and "b"."""
        start = f"{_PREFIX}{self.name}."
        return {
            "a": (f"{start}lora_A.weight", (rank, math.prod(self.inputs))),
            "b": (f"{start}lora_B.weight", (math.prod(self.outputs), rank)),
        }


def _modules(config: ModelConfig) -> Iterator[_Module]:
    axes = projection_axes(config)
    for layer in range(config.layers):
        for path, name in PROJECTIONS.items():
            yield _Module(path, layer, f"model.layers.{layer}.{name}", *axes[path])


def save_adapter(
    path: str | Path, lora: Any, config: ModelConfig, base: str = "", heads: dict[str, Any] | None = None
) -> None:
    """Writes an adapter that `PeftModel.from_pretrained` puts on its base: `adapter_config.json` and the tensors.

    Both files are written under other names first: an interruption leaves no half of either, and no mixture of an old
    adapter and this one that would load.

    Args:
        path: the directory. lora: collection `lora` of a model with this `config`; it is stored in its own dtype.
        base: what `base_model_name_or_path` will say; empty where the base has no name.
        heads: a reward model's (see `RubricHeads`), stored as `peft` stores `modules_to_save`.

    Raises:
        ValueError: `config` has no adapter.
        UserError: the directory cannot be written.
    """
    if config.lora is None:
        raise ValueError("this configuration has no adapter to save")
    blocks, tensors = whole(lora)["blocks"], {}
    for module in _modules(config):
        room, projection = module.path
        for half, (name, shape) in module.tensors(config.lora.rank).items():
            tensors[name] = blocks[room][projection][half][module.layer].reshape(shape[::-1]).T
    if heads is not None:
        tensors |= {_PREFIX + name: tensor for name, tensor in heads_to_files(heads).items()}
    if first():
        _write(Path(path), _config_json(config.lora, base, heads is not None), tensors)


def _config_json(lora: Lora, base: str, graded: bool) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        # A reward model is no class of `transformers`; peft passes calls to a base without a task through untouched.
        "task_type": None if graded else "CAUSAL_LM",
        "base_model_name_or_path": base or None,
        "inference_mode": True,
        "r": lora.rank,
        "lora_alpha": int(lora.alpha) if lora.alpha == int(lora.alpha) else lora.alpha,  # some tools want an integer
        "lora_dropout": lora.dropout,
        "target_modules": _NAMES,
        "modules_to_save": _HEADS if graded else None,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
    }


def _write(path: Path, settings: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path, prefix=".") as folder:
            config, weights = Path(folder) / CONFIG, Path(folder) / WEIGHTS
            config.write_text(json.dumps(settings, indent=2) + "\n")
            save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, weights, metadata={"format": "pt"})
            (path / CONFIG).unlink(missing_ok=True)  # nothing loads until both files are new
            weights.replace(path / WEIGHTS)
            config.replace(path / CONFIG)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot write the adapter ({str(error).splitlines()[0]})") from error


def read_adapter_config(path: str | Path) -> Lora:
    """Rank, alpha and dropout of the adapter in a PEFT directory; alpha / rank is its scale, `use_rslora` included.

    Raises:
        UserError: no readable `adapter_config.json`, or an adapter that is not scale * B A x on our projections.
    """
    settings = _settings(Path(path))
    rank, alpha = settings["r"], float(settings["lora_alpha"])
    if settings.get("use_rslora"):  # lora_alpha / sqrt(r) (arXiv 2312.03732)
        alpha *= math.sqrt(rank)
    return Lora(rank, alpha, float(settings.get("lora_dropout") or 0))


def _settings(path: Path) -> dict[str, Any]:
    """`adapter_config.json`, once everything in it that we do not compute has been refused."""
    file = path / CONFIG
    data = read_json(file, "give the directory of a PEFT adapter")
    if data.get("peft_type") != "LORA":
        raise UserError(f"{file}: peft_type {data.get('peft_type')!r} is not supported; use a LORA adapter")
    for key in _UNSET:
        if data.get(key):
            raise UserError(f"{file}: {key} is set, which is {_MEND}")
    if data.get("bias", "none") != "none":
        raise UserError(f"{file}: bias {data['bias']!r} is {_MEND}")
    start = str(data.get("init_lora_weights"))
    if start.lower().startswith(_OTHER_BASE):
        raise UserError(f"{file}: init_lora_weights {start!r} changes the base, which is {_MEND}")
    _check_numbers(file, data)
    _check_names(file, data)
    return data


def _check_numbers(file: Path, data: dict[str, Any]) -> None:
    rank, alpha, dropout = data.get("r"), data.get("lora_alpha"), data.get("lora_dropout") or 0
    if type(rank) is not int or rank < 1:
        raise UserError(f"{file}: r must be a whole number above 0, got {rank!r}")
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not math.isfinite(alpha):
        raise UserError(f"{file}: lora_alpha must be a number, got {alpha!r}")
    if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise UserError(f"{file}: lora_dropout must lie in [0, 1), got {dropout!r}")


def _check_names(file: Path, data: dict[str, Any]) -> None:
    targets, layers, saved = (data.get(f) for f in ("target_modules", "layers_to_transform", "modules_to_save"))
    if not isinstance(targets, list | str | None):
        raise UserError(f"{file}: target_modules must be a list of names or a string, got {targets!r}")
    for name in targets if isinstance(targets, list) else ():
        if not isinstance(name, str) or name.rpartition(".")[2] not in _NAMES:
            raise UserError(f"{file}: target_modules names {name!r}, which is {_MEND}")
    if layers is not None and any(type(layer) is not int for layer in _listed(layers)):
        raise UserError(f"{file}: layers_to_transform must be a list of layers, got {layers!r}")
    for name in _listed(saved) if saved else ():
        if name not in _HEADS:
            raise UserError(f"{file}: modules_to_save names {name!r}, which is {_MEND}")


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


class _Tensors:
    """`adapter_model.safetensors`, its tensors by the names that `peft` gives them."""

    def __init__(self, path: Path):
        self._files = TensorFiles(path, WEIGHTS)
        self._stored: dict[str, str] = {}
        for stored in sorted(self._files.names):
            # Some tools leave in the name that the adapter had in the running model.
            name = re.sub(r"(?<=\.lora_[AB])\.default", "", stored)
            if name in self._stored:
                raise UserError(f"{self._files.where}: tensors {self._stored[name]!r} and {stored!r} are the same one")
            self._stored[name] = stored

    def __contains__(self, name: str) -> bool:
        return name in self._stored

    def read(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        return self._files.whole(self._stored.get(name, name), shape)

    def refuse_others(self, known: set[str]) -> None:
        for name in sorted(self._stored.keys() - known):
            raise UserError(
                f"{self._files.where}: tensor {self._stored[name]!r} is not expected with this {CONFIG} and this base"
            )


def _adapted(settings: dict[str, Any], config: ModelConfig, tensors: _Tensors) -> list[_Module]:
    """The modules that the file must adapt: those that `target_modules` lists, or those there where it is a pattern.

    A name in the list means what it means to `peft`: a module's whole name, or the end of it.
    """
    modules = list(_modules(config))
    targets, layers = settings.get("target_modules"), settings.get("layers_to_transform")
    if not isinstance(targets, list) or settings.get("exclude_modules"):
        return [m for m in modules if any(name in tensors for name, _ in m.tensors(1).values())]
    ends = tuple(f".{target}" for target in targets)
    chosen = range(config.layers) if layers in (None, []) else _listed(layers)
    return [m for m in modules if m.layer in chosen and f".{m.name}".endswith(ends)]


def _zeros(config: ModelConfig, rank: int) -> dict[str, Any]:
    blocks: dict[str, Any] = {}
    for (room, projection), (inputs, outputs) in projection_axes(config).items():
        shapes = {"a": (config.layers, *inputs, rank), "b": (config.layers, rank, *outputs)}
        zeros = {half: np.zeros(shape, np.float32) for half, shape in shapes.items()}
        blocks.setdefault(room, {})[projection] = zeros
    return blocks


def load_adapter(path: str | Path, config: ModelConfig) -> dict[str, Any]:
    """Collection `lora` of a model with this `config`, from a PEFT directory: float32 host arrays.

    Where the adapter leaves out a projection or a layer (`target_modules`, `layers_to_transform`), a = b = 0: that
    changes nothing, and since the gradient of each half is proportional to the other half, training does not either.

    Args:
        path: the directory; a reward model's heads in it are left alone.
        config: the base's, with `lora` as `read_adapter_config` gave it; only dropout may differ.

    Returns:
        {"blocks": {"attention": {"query": {"a": [L, *inputs, rank], "b": [L, rank, *outputs]}, ...}, "mlp": ...}}

    Raises:
        ValueError: `config` has no adapter.
        UserError: as `read_adapter_config`; `config.lora` describes another adapter; a tensor is missing, unexpected or
            has the wrong shape, or the file is damaged.
    """
    if config.lora is None:
        raise ValueError("this configuration has no adapter to load")
    path, ours, theirs = Path(path), config.lora, read_adapter_config(path)
    if (ours.rank, ours.alpha) != (theirs.rank, theirs.alpha):
        raise UserError(
            f"{path / CONFIG}: the adapter has rank {theirs.rank} and alpha {theirs.alpha}, the run's configuration "
            f"{ours.rank} and {ours.alpha}; set them alike"
        )
    tensors, known = _Tensors(path), {_PREFIX + name for name in head_shapes(config.width)}
    blocks = _zeros(config, ours.rank)
    adapted = _adapted(_settings(path), config, tensors)
    for module in adapted:
        room, projection = module.path
        for half, (name, shape) in module.tensors(ours.rank).items():
            stacked = blocks[room][projection][half]
            stacked[module.layer] = tensors.read(name, shape).T.reshape(stacked.shape[1:])
            known.add(name)
    tensors.refuse_others(known)
    if not adapted:
        raise UserError(f"{path / WEIGHTS}: the adapter adapts nothing of this base")
    return {"blocks": blocks}


def load_heads(path: str | Path, config: ModelConfig) -> dict[str, np.ndarray]:
    """float32 rubric heads (see `RubricHeads`) that lie beside a reward model's adapter.

    Raises:
        UserError: a head is missing or has the wrong shape, or the file is damaged.
    """
    tensors = _Tensors(Path(path))
    return heads_from_files(
        {name: tensors.read(_PREFIX + name, shape) for name, shape in head_shapes(config.width).items()}
    )
