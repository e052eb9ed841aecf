"""`tracelift aot`: compiles an experiment for a machine that need not be there; does it fit, and how fast is it?

Memory is counted for each program of a step: what is alive while it runs (weights once, however many roles use them),
and what the compiler adds to that: temporaries, outputs, code, and the padding of layouts.
"""

import dataclasses
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tracelift_jax.models.transformer import ModelConfig
from tracelift_jax.parallel.roofline import Part, Work, measure
from tracelift_jax.parallel.topology import Chip, Machine, quiet
from tracelift_jax.train.programs import Experiment, Program, plan

EFFORT = {"optimization_level": 9}
"""XLA's O0: the compiler looks less for faster code, in half of the time; docs/scaling.md has what that changes.

The number, since jax 0.10 reads no name here; later versions read both.
"""
MARGIN = 0.05
"""The share of a chip's memory that should stay free: other programs of a run, fragments, what is in flight."""


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on a chip while a program runs.

    Attributes:
        alive: arguments, and what stays beside them. padding: of the arguments' layouts. temporaries: the most at once.
        outputs: those that take no argument's place. code: the program.
    """

    alive: int
    padding: int
    temporaries: int
    outputs: int
    code: int

    @property
    def total(self) -> int:
        """The most at once."""
        return self.alive + self.padding + self.temporaries + self.outputs + self.code


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A program of a step.

    Attributes:
        seconds: that compiling it took. memory, work: what came of it; None where the compiler refused it.
        refused: its words then, "" otherwise. wanted: bytes it says that the program takes, 0 where it does not say.
    """

    name: str
    seconds: float
    memory: Memory | None
    work: Work | None
    refused: str = ""
    wanted: int = 0

    @property
    def bytes(self) -> int:
        """On a chip while it runs; of one refused, what the compiler says."""
        return self.memory.total if self.memory else self.wanted


@dataclasses.dataclass(frozen=True)
class Report:
    """What came of compiling an experiment.

    Attributes:
        mesh: axis sizes. batch: problems a step. resident: bytes on a chip between steps, by what they hold.
        weights: how much of that is weights that stay as they are.
        moved: bytes of the copies of weights that a rollout decodes with. caches: bytes of its keys and values at most.
        shapes: of the models, the base first.
    """

    machine: Machine
    mesh: Mapping[str, int]
    batch: int
    resident: Mapping[str, int]
    weights: int
    moved: int
    caches: int
    shapes: Sequence[ModelConfig]
    programs: Sequence[Compiled]

    @property
    def kept(self) -> int:
        """Bytes on a chip between steps."""
        return sum(self.resident.values())

    @property
    def most(self) -> int:
        """Bytes on a chip in the program that takes most."""
        return max(each.bytes for each in self.programs)

    @property
    def limit(self) -> float:
        """Bytes on a chip that may be taken."""
        return (1 - MARGIN) * self.machine.chip.memory

    @property
    def fits(self) -> bool:
        """With the margin."""
        refused = any(each.refused for each in self.programs)
        return not refused and self.most <= self.limit

    @property
    def parts(self) -> Sequence[Part]:
        """Of all programs that were compiled."""
        return [part for each in self.programs if each.work for part in each.work.parts]

    @property
    def largest(self) -> Part:
        """The part that takes longest."""
        return max(self.parts, key=lambda part: part.total)

    @property
    def step_seconds(self) -> float | None:
        """At least; None where a program was refused."""
        if any(each.work is None for each in self.programs):
            return None
        return sum(each.work.seconds for each in self.programs if each.work)

    @property
    def weights_moved(self) -> int:
        """Places inside decode loops where collectives move weights."""
        found = (one for each in self.programs if each.work for one in each.work.collectives)
        return sum(one.places for one in found if one.decoding and one.weights)


def compile_experiment(
    experiment: Experiment, machine: Machine, devices: Sequence[Any], tell: Callable[[str], None]
) -> Report:
    """Compiles all programs of a step; no weights and no data are read.

    Args:
        devices: of `machine`. tell: called with a line before each thing that takes long.

    Raises:
        UserError: the mesh, the batch or a path does not fit.
    """
    tell(f"tracing for {machine.count} x {machine.chip.name}")
    planned = plan(experiment, devices)
    programs = []
    for program in planned.programs:  # one at a time: two at once can end libtpu
        tell(f"compiling {program.name}")
        with quiet():
            programs.append(_compile(program, machine.chip))
    return Report(
        machine,
        dict(planned.mesh.shape),
        experiment.batch_size,
        planned.resident,
        planned.weights,
        planned.moved,
        planned.caches,
        planned.shapes,
        programs,
    )


def _compile(program: Program, chip: Chip) -> Compiled:
    began = time.perf_counter()
    try:
        compiled = program.lowered.compile(compiler_options=EFFORT)
    except Exception as error:
        message = str(error)
        if "RESOURCE_EXHAUSTED" not in message:
            raise
        seconds, said = time.perf_counter() - began, message.splitlines()[0][:300]
        return Compiled(program.name, seconds, None, None, said, max(wanted(message), program.alive))
    seconds = time.perf_counter() - began
    work = measure(compiled.as_text(), program.name, lambda name: name.startswith(program.weights), chip)
    return Compiled(program.name, seconds, _memory(compiled.memory_analysis(), program, work), work)


def wanted(message: str) -> int:
    """Bytes that a refused program takes, in the compiler's words; 0 where it does not say."""
    found = re.search(r"(?:Used|temporaries \()\s*([\d.]+)([KMGT]?)", message)
    return int(float(found[1]) * 1024 ** " KMGT".index(found[2] or " ")) if found else 0


def _memory(said: Any, program: Program, work: Work) -> Memory:
    outputs = said.output_size_in_bytes - said.alias_size_in_bytes
    arguments = said.argument_size_in_bytes
    # What the compiler calls the peak may hold more than the parts that it tells of, never less than they are at once.
    temporaries = max(said.temp_size_in_bytes, said.peak_memory_in_bytes - arguments - outputs)
    padding = max(arguments - int(work.arguments), 0)
    return Memory(program.alive, padding, temporaries, outputs, said.generated_code_size_in_bytes)
