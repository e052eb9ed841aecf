"""What an evaluation found, to look at: `report.png`, and a table for the terminal."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.table import Table

from tracelift_jax.evals.experiment import NONE
from tracelift_jax.evals.report import tokens
from tracelift_jax.evals.view import Result, View
from tracelift_jax.train.run import console
from tracelift_jax.train.trust_report import number


def show(results: Result, throughput: Mapping[str, float]) -> None:
    """Prints a table for each benchmark and executor, and how fast it went."""
    view = View(results)
    for benchmark in view.benchmarks:
        for executor in view.executors:
            for shown in (_table(view, benchmark, executor), _passes(view, benchmark, executor)):
                if shown:
                    console.print(shown, soft_wrap=False)
                    console.print()
    for kind, speed in throughput.items():
        console.print(f"{kind}: {speed:.3g} problems/s")


def _table(view: View, benchmark: str, executor: str) -> Table:
    caption = f"{view.evaluated(benchmark)} problems; ± half a 95 % interval"
    shown = Table(
        title=f"{benchmark}, executor {executor}", caption=caption, box=None, padding=(0, 2, 0, 0), pad_edge=False
    )
    shown.add_column("", overflow="fold")
    for head in (*view.modes, "uplift", "RM", "leaks", "tokens"):
        shown.add_column(head, justify="right", no_wrap=True)
    for source in view.sources_of(benchmark):
        last, audit = view.last(benchmark, source, executor), source.partition("/")[2]
        right = map(half, view.by_mode(benchmark, source, executor, "accuracy"))
        written = [number(last["leak"]["value"]), tokens(last["tokens"]["mean"])] if source != NONE else ["-", "-"]
        name = f"· {audit}" if audit else source
        shown.add_row(name, *right, half(last["uplift"]), number(last["score"]["value"]), *written)
    return shown


def _passes(view: View, benchmark: str, executor: str) -> Table | None:
    """pass@k, where it was asked for."""
    columns = view.passes()
    shown = Table(title=f"{benchmark}, executor {executor}: pass@k", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    shown.add_column("", overflow="fold")
    for mode, k in columns:
        shown.add_column(f"@{k} {mode}", justify="right", no_wrap=True)
    for source in view.sources_of(benchmark):
        name = f"· {source.partition('/')[2]}" if "/" in source else source
        shown.add_row(name, *map(half, view.passed(benchmark, source, executor)))
    return shown if columns else None


def half(value: Result) -> str:
    """A value and half of its interval."""
    if value["low"] is None:
        return number(value["value"])
    return f"{value['value']:.3f} ±{(value['high'] - value['low']) / 2:.3f}"


def draw(results: Result, path: Path) -> None:
    """Right answers with their intervals by source: a panel for each benchmark and executor, a mark for each mode."""
    view = View(results)
    panels = [(benchmark, executor) for executor in view.executors for benchmark in view.benchmarks]
    columns = min(len(panels), 3)
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(4.8 * columns, lines * (1.4 + 0.3 * len(view.sources))), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(lines, columns, squeeze=False).flatten()
    for axis, (benchmark, executor) in zip(axes, panels, strict=False):
        _panel(axis, view, benchmark, executor)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8)
    figure.savefig(path, dpi=110)


def _panel(axis: Any, view: View, benchmark: str, executor: str) -> None:
    sources = view.sources_of(benchmark)
    for place, mode in enumerate(view.modes):
        found = [view.groups[benchmark, source, executor, mode]["accuracy"] for source in sources]
        rows = [n for n, value in enumerate(found) if value["value"] is not None]
        values = [found[n]["value"] for n in rows]
        below = [found[n]["value"] - found[n]["low"] for n in rows]
        above = [found[n]["high"] - found[n]["value"] for n in rows]
        heights = [-n - 0.32 * (place - (len(view.modes) - 1) / 2) for n in rows]
        axis.errorbar(values, heights, xerr=[below, above], fmt="os"[place], markersize=4, capsize=2, label=mode)
    names = [f"· {source.partition('/')[2]}" if "/" in source else source for source in sources]
    axis.set_yticks([-n for n in range(len(sources))], names)
    axis.set(title=f"{benchmark}, {executor}", xlabel="right answers", xlim=(-0.02, 1.02))
    axis.grid(axis="x", linewidth=0.4)
