"""Safetensors files: tensors read in parts, and written in files of limited size."""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from tracelift_jax.errors import UserError
from tracelift_jax.models.hf_config import read_json
from tracelift_jax.parallel.hosts import first

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_READ_BYTES = 64 * 2**20
_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


class TensorFiles:
    """The tensors of a directory, whichever files they are in.

    Attributes:
        where: the file to blame where a tensor is missing.
    """

    def __init__(self, directory: Path, title: str = WEIGHTS):
        """Looks at `title`, or else at the shards of its index.

        Raises:
            UserError: no such file, or one that is damaged.
        """
        self._directory = directory
        index = directory / INDEX
        if (directory / title).is_file() or title != WEIGHTS:
            self._file_of = dict.fromkeys(self._open(title).keys(), title)
            self.where = directory / title
        elif index.is_file():
            listed = read_json(index, "").get("weight_map")
            if not isinstance(listed, dict) or not all(isinstance(name, str) for name in listed.values()):
                raise UserError(f"{index}: no weight_map from tensors to files")
            there = {name: set(self._open(name).keys()) for name in sorted(set(listed.values()))}
            for tensor, name in listed.items():
                if tensor not in there[name]:
                    raise UserError(f"{directory / name}: tensor {tensor!r} is missing, which {INDEX} says is there")
            self._file_of = {tensor: name for name in there for tensor in there[name]}
            self.where = index
        elif list(directory.glob("pytorch_model*.bin")):
            raise UserError(f"{directory}: holds pytorch_model.bin; only safetensors are read, so convert it first")
        else:
            raise UserError(f"{directory / WEIGHTS}: no such file")

    @property
    def names(self) -> set[str]:
        """Names of all tensors."""
        return set(self._file_of)

    def _open(self, name: str):
        from safetensors import SafetensorError, safe_open

        file = self._directory / name
        if not file.is_file():
            raise UserError(f"{file}: no such file")
        try:
            return safe_open(str(file), framework="numpy")
        except (SafetensorError, OSError) as error:
            raise UserError(f"{file}: not a readable safetensors file ({str(error).splitlines()[0]})") from error

    def check(self, name: str, shape: tuple[int, ...]) -> str:
        """The dtype of a tensor, which must have this shape.

        Raises:
            UserError: it is missing, or has another shape, or a dtype that is not read.
        """
        if name not in self._file_of:
            raise UserError(f"{self.where}: tensor {name!r} is missing")
        file = self._directory / self._file_of[name]
        found = self._open(self._file_of[name]).get_slice(name)
        if tuple(found.get_shape()) != shape:
            raise UserError(f"{file}: tensor {name!r} has shape {list(found.get_shape())}, expected {list(shape)}")
        if found.get_dtype() not in _DTYPES:
            raise UserError(f"{file}: tensor {name!r} is {found.get_dtype()}; {', '.join(_DTYPES)} can be read")
        return _DTYPES[found.get_dtype()]

    def whole(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """A tensor, which must have this shape; raises as `check`."""
        return self.read(name, self.check(name, shape), shape, tuple(slice(None) for _ in shape))

    def read(self, name: str, dtype: str, shape: tuple[int, ...], index: tuple[slice, ...]) -> np.ndarray:
        """Part of a tensor that was checked.

        In pieces, each through a mapping of its own: pages of a mapping count as this process's memory until it goes.
        """
        starts, stops, _ = zip(*(part.indices(size) for part, size in zip(index, shape, strict=True)), strict=True)
        out = np.empty([b - a for a, b in zip(starts, stops, strict=True)], jnp.dtype(dtype))
        rows = max(1, _READ_BYTES // max(1, out[:1].nbytes))
        for row in range(0, len(out), rows):
            first, last = starts[0] + row, min(starts[0] + row + rows, stops[0])
            piece = self._open(self._file_of[name]).get_slice(name)
            out[row : row + rows] = piece[(slice(first, last), *map(slice, starts[1:], stops[1:]))]
        return out


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor to be written; `fetch` brings it to the host, not before its file is due."""

    shape: tuple[int, ...]
    dtype: Any
    fetch: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        """Size in the file."""
        return math.prod(self.shape) * jnp.dtype(self.dtype).itemsize


def write_tensors(directory: Path, tensors: Mapping[str, Tensor], shard_bytes: int) -> None:
    """Writes `model.safetensors`, or several files with an index where it would be larger than `shard_bytes`.

    Each file is complete under its name or not there. Of several processes all fetch, and the first writes.
    """
    from safetensors.numpy import save_file

    files: list[list[str]] = [[]]
    size = 0
    for name, tensor in tensors.items():
        if size and size + tensor.nbytes > shard_bytes:
            files.append([])
            size = 0
        files[-1].append(name)
        size += tensor.nbytes
    writes = first()
    for old in [*directory.glob("model*.safetensors"), directory / INDEX] if writes else []:
        old.unlink(missing_ok=True)  # of another split, which readers would find first
    titles = [f"model-{i + 1:05d}-of-{len(files):05d}.safetensors" for i in range(len(files))]
    for title, names in zip(titles if len(files) > 1 else [WEIGHTS], files, strict=True):
        partial = directory / f"{title}.partial"
        held = {name: np.ascontiguousarray(tensors[name].fetch()) for name in names}
        if not writes:
            continue
        save_file(held, partial, metadata={"format": "pt"})
        partial.chmod(0o644)  # the library makes it readable for its owner alone
        partial.rename(directory / title)
    if len(files) > 1 and writes:
        index = {
            "metadata": {"total_size": sum(t.nbytes for t in tensors.values())},
            "weight_map": {name: title for title, names in zip(titles, files, strict=True) for name in names},
        }
        (directory / INDEX).write_text(json.dumps(index, indent=1) + "\n")
