"""What the tests of adapters share: an adapter's files as plain tensors and JSON, and two ways to compare."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tracelift_jax.errors import UserError

SEVEN = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]


def name(layer: int, module: str, half: str) -> str:
    return f"base_model.model.model.layers.{layer}.{module}.lora_{half}.weight"


def stored(path) -> dict[str, np.ndarray]:
    return load_file(path / "adapter_model.safetensors")


def store(path, tensors) -> None:
    save_file(tensors, path / "adapter_model.safetensors")


def settings(path) -> dict:
    return json.loads((path / "adapter_config.json").read_text())


def configure(path, **changes) -> None:
    (path / "adapter_config.json").write_text(json.dumps(settings(path) | changes))


def assert_bitwise(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(expected), strict=True):
        b = np.asarray(b)
        assert isinstance(a, np.ndarray | np.generic) and a.dtype == b.dtype and a.shape == b.shape, path
        assert a.tobytes() == b.tobytes(), path


def refused(call, *message: object):
    """`call()` raises one line that names everything in `message`."""
    with pytest.raises(UserError) as caught:
        call()
    line = str(caught.value)
    assert "\n" not in line and all(str(part) in line for part in message), line


def drop(path, *parts: str) -> None:
    """Takes the tensors out whose names contain any of `parts`."""
    store(path, {key: t for key, t in stored(path).items() if not any(part in key for part in parts)})
