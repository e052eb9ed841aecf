"""Machines to compile for without having them: what their chips can do, and their names."""

import contextlib
import dataclasses
import importlib.util
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tracelift_jax.errors import UserError

GIB = 2**30
HOP = 1e-6
"""Seconds that a message is taken to need from neighbour to neighbour: an assumption, no published figure."""


@dataclasses.dataclass(frozen=True)
class Chip:
    """What one device can do at best.

    Attributes:
        memory: bytes a program may use. flops: bfloat16 operations a second. bandwidth: bytes a second to and from
            memory. link: bytes a second to a neighbour, in one direction. axes: of the torus that links form; 0: a
            switch that joins all.
    """

    name: str
    memory: float
    flops: float
    bandwidth: float
    link: float
    axes: int


CHIPS: Mapping[str, Chip] = {
    # Peak, bandwidth and interconnect as docs.cloud.google.com/tpu/docs/v5e, v5p and v6e give them: the bidirectional
    # total of a chip is 400, 1200 and 800 GB/s over 4, 6 and 4 links. Memory is what XLA's compiler lets programs use
    # of the 16, 95 and 32 GB. 2026-11-23.
    "v5e": Chip("TPU v5e", 15.75 * GIB, 197e12, 819e9, 50e9, 2),
    "v5p": Chip("TPU v5p", 95.74 * GIB, 459e12, 2765e9, 100e9, 3),
    "v6e": Chip("TPU v6e", 31.25 * GIB, 918e12, 1640e9, 100e9, 2),
    # NVIDIA's data sheet of the H100 SXM: dense bfloat16; NVLink is 900 GB/s in both directions together.
    "h100": Chip("H100 SXM", 80e9, 989e12, 3350e9, 450e9, 0),
}

_FLAT = {4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
_SLICES: Mapping[str, Mapping[int, str]] = {
    "v5e": _FLAT,
    "v6e": _FLAT,
    # Named by cores, of which a chip has two.
    "v5p": {
        8: "2x2x1",
        16: "2x2x2",
        32: "2x2x4",
        64: "2x4x4",
        128: "4x4x4",
        256: "4x4x8",
        512: "4x8x8",
        1024: "8x8x8",
    },
}
UNREAD = {"BASE": "", "GRADER": "", "TRAIN": "not read", "TEST": "not read"}
"""What macros of experiments that name files are taken for where nobody gave them: no data is read, and of models with
a shape no weights."""
STAND_IN = "v5p:2x2x2"
"""What `h100-8` is compiled for: eight chips with more memory; figures are then those of eight H100."""


@dataclasses.dataclass(frozen=True)
class Machine:
    """Chips that are wired together.

    Attributes:
        name: as it was asked for. topology: as jax takes it. chip: whose figures count.
    """

    name: str
    topology: str
    chip: Chip

    @property
    def count(self) -> int:
        """How many chips."""
        count = 1
        for size in self.topology.partition(":")[2].split("x"):
            count *= int(size)
        return count

    @property
    def calculated(self) -> bool:
        """Whether it was compiled for other chips than those whose figures count."""
        return CHIPS.get(self.topology.partition(":")[0]) is not self.chip


def find(name: str) -> Machine:
    """A machine by topology ("v5e:4x4"), by what clouds call the slice ("v5e-16", "v5p-16"), or "h100-8".

    Raises:
        UserError: it is none that we know.
    """
    if name == "h100-8":
        return Machine(name, STAND_IN, CHIPS["h100"])
    kind, dash, size = name.replace("v5litepod", "v5e").partition("-")
    if dash and kind in _SLICES and size.isdigit() and int(size) in _SLICES[kind]:
        return Machine(name, f"{kind}:{_SLICES[kind][int(size)]}", CHIPS[kind])
    kind = name.partition(":")[0]
    axes = 3 if kind == "v5p" else 2
    if kind in _SLICES and re.fullmatch(rf"{kind}:[1-9]\d*(x[1-9]\d*){{{axes - 1}}}", name):
        return Machine(name, name, CHIPS[kind])
    known = ", ".join(f"{kind}-{size} ({kind}:{shape})" for kind in _SLICES for size, shape in _SLICES[kind].items())
    raise UserError(
        f"--topology={name}: no such machine; there are {known}, other shapes such as v5p:4x4x16, and h100-8"
    )


def prepare() -> None:
    """Settings that libtpu and jax read when they start: no TPU is asked for, and nobody's log is wanted.

    Raises:
        UserError: there is no libtpu.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "compiling for TPUs needs libtpu: pip install 'tracelift_jax[aot]', in an environment of its own "
            "(beside CPU runs it slows and clutters their start)"
        )
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_MIN_LOG_LEVEL": "4",
        "TPU_STDERR_LOG_LEVEL": "4",
        "TF_CPP_MIN_LOG_LEVEL": "4",
    }


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps off standard error what libraries write there by themselves."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as sink:
        os.dup2(sink.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def devices(machine: Machine) -> Sequence[Any]:
    """Its chips, as devices to compile for.

    Raises:
        UserError: no machine has this shape.
    """
    from jax.experimental import topologies

    try:
        with quiet():
            return topologies.get_topology_desc(machine.topology, platform="tpu").devices
    except Exception as error:
        raise UserError(f"--topology={machine.name}: {str(error).splitlines()[0]}") from error
