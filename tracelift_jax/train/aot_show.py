"""A report of `tracelift aot`, for people and for machines."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from tracelift_jax.parallel.memory import readable
from tracelift_jax.parallel.topology import Machine
from tracelift_jax.train.advice import advise
from tracelift_jax.train.aot import Compiled, Report, compile_experiment
from tracelift_jax.train.programs import Experiment

WIDTH = 120
"""Of tables that go to a file."""


def to_json(report: Report, advice: Sequence[str]) -> dict[str, Any]:
    """One JSON-able object; bytes and seconds are plain numbers, of one chip."""
    machine = report.machine
    return {
        "machine": {
            **dataclasses.asdict(machine.chip),
            "name": machine.name,
            "chip": machine.chip.name,
            "topology": machine.topology,
            "chips": machine.count,
            "calculated": machine.calculated,
        },
        "mesh": dict(report.mesh),
        "batch": report.batch,
        "fits": report.fits,
        "most": report.most,
        "limit": report.limit,
        "advice": list(advice),
        "resident": dict(report.resident),
        "copies_for_decoding": report.moved,
        "caches_at_most": report.caches,
        "programs": [_program(each) for each in report.programs],
        "step_seconds": report.step_seconds,
        "largest": None if report.step_seconds is None else report.largest.name,
        "weights_moved_in_decode_loops": report.weights_moved,
        "compile_seconds": sum(each.seconds for each in report.programs),
    }


def _program(each: Compiled) -> dict[str, Any]:
    return {
        "name": each.name,
        "compile_seconds": each.seconds,
        "refused": each.refused,
        "bytes": each.bytes,
        "memory": each.memory and dataclasses.asdict(each.memory),
        "loops_at_most": each.work and list(each.work.loops),
        "kernels_not_counted": each.work and each.work.kernels,
        "parts": each.work and [dataclasses.asdict(part) | {"name": part.name} for part in each.work.parts],
        "collectives": each.work and [dataclasses.asdict(one) for one in each.work.collectives],
    }


def show(report: Report, advice: Sequence[str], console: Console) -> None:
    """Tables of one chip's memory, work and collectives, and what follows from them."""
    machine, axes = report.machine, " x ".join(f"{axis} {size}" for axis, size in report.mesh.items())
    like = f", calculated from a program for {machine.topology}" if machine.calculated else f" ({machine.topology})"
    console.print(
        f"{machine.name}: {machine.count} x {machine.chip.name}{like}, {readable(int(machine.chip.memory))} each · "
        f"mesh {axes} · batch {report.batch}"
    )
    kept = " · ".join(f"{what} {readable(size)}" for what, size in report.resident.items())
    console.print(f"per chip between steps: {kept}")
    console.print(
        f"in a rollout: weights laid out anew {readable(report.moved)} · key-value caches, at most "
        f"{readable(report.caches)}, among the temporaries"
    )
    for table in (_memory(report), _work(report), _collectives(report)):
        if table.row_count:
            console.print(table)
    for line in verdict(report, advice):
        console.print(line)


def verdict(report: Report, advice: Sequence[str]) -> Iterator[str]:
    """What follows from a report, a line each."""
    if report.step_seconds is not None:
        largest = report.largest
        what = max(largest.seconds, key=lambda name: largest.seconds[name])
        yield (
            f"a step takes at least {report.step_seconds:.2f} s by the chip's published figures, of which "
            f"{largest.name} {largest.total:.2f} s, most of it {what}"
        )
        kernels = sum(each.work.kernels for each in report.programs if each.work)
        if kernels:
            yield f"operations of {kernels} attention kernels are not counted"
        moved = report.weights_moved
        yield (
            f"{moved} collectives move weights inside a decode loop: take rollout rules whose embed is ''"
            if moved
            else "no collective moves weights inside a decode loop"
        )
    for each in report.programs:
        if each.refused:
            yield f"{each.name}: the compiler refuses: {each.refused}"
    size = f"{readable(report.most)} of {readable(int(report.machine.chip.memory))}"
    free = "5 % of which stay free"
    yield f"fits: {size}, {free}" if report.fits else f"does not fit: {size}, {free}"
    for line in advice:
        yield f"  change {line}"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if not index else "right", no_wrap=True)
    return table


def _memory(report: Report) -> Table:
    kinds = ("alive", "padding", "temporaries", "outputs", "code")
    table = _table("memory per chip", "program", *kinds, "together", "compiled in")
    for each in report.programs:
        sizes = [readable(getattr(each.memory, kind)) for kind in kinds] if each.memory else ["-"] * len(kinds)
        table.add_row(each.name, *sizes, readable(each.bytes), f"{each.seconds:.0f} s")
    return table


def _work(report: Report) -> Table:
    table = _table(
        "work per chip, decode loops at their longest",
        "part",
        "TFLOP",
        "GB",
        "GB sent",
        "s",
        "compute",
        "memory",
        "wires",
    )
    for part in sorted(report.parts, key=lambda part: -part.total):
        seconds = [f"{part.seconds[what]:.3f}" for what in ("compute", "memory", "wires")]
        amounts = (f"{part.flops / 1e12:.2f}", f"{part.bytes / 1e9:.1f}", f"{part.sent / 1e9:.2f}")
        table.add_row(part.name, *amounts, f"{part.total:.3f}", *seconds)
    return table


def _collectives(report: Report) -> Table:
    table = _table("collectives", "kind", "program", "moves", "in a decode loop", "places", "times", "GB")
    for each in report.programs:
        for one in each.work.collectives if each.work else ():
            what = "weights" if one.weights else "activations"
            where = "yes" if one.decoding else "no"
            amount = f"{one.bytes / 1e9:.3f}"
            table.add_row(one.kind, each.name, what, where, str(one.places), str(one.times), amount)
    return table


def run_aot(experiment: Experiment, machine: Machine, devices: Sequence[Any], as_json: bool) -> bool:
    """Compiles, prints the report, and says whether the experiment fits."""
    progress = Console(stderr=True, highlight=False, soft_wrap=True)
    report = compile_experiment(experiment, machine, devices, progress.print)
    advice = advise(experiment, report)
    if as_json:
        print(json.dumps(to_json(report, advice), indent=1))
    else:
        screen = Console(highlight=False, soft_wrap=True)
        show(report, advice, screen if screen.is_terminal else Console(highlight=False, soft_wrap=True, width=WIDTH))
    return report.fits
