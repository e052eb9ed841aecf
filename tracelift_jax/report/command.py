"""`tracelift report`: run directories in, a page out."""

import html
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import jax
from rich.console import Console

from tracelift_jax.errors import UserError
from tracelift_jax.report.pack import pack
from tracelift_jax.report.payload import payload
from tracelift_jax.report.runs import read_runs
from tracelift_jax.report.sample import choose, shares

PAGE = "report.html"
SCRIPTS = (
    "uplot/uPlot.iife.min.js", "inflate.js", "data.js", "numbers.js", "elements.js", "charts.js", "curves.js",
    "rewards.js", "settings.js", "formula.js", "trace.js", "inspector.js", "main.js",
)  # fmt: skip
STYLES = ("uplot/uPlot.min.css", "style.css")


def run_report(run_dirs: Sequence[str], out: str | None, most_traces: int) -> None:
    """Writes the page of some runs, and prints where it is and what it leaves out.

    Args:
        out: the file; None: `report.html` in the first run's directory.
        most_traces: that the page holds, of all runs together.

    Raises:
        UserError: there is nothing to report, or what is there is broken.
    """
    if most_traces < 1:
        raise UserError(f"--most_traces must be at least 1, got {most_traces}")
    # The little there is to compute must not take a device from the run that may still go on.
    jax.config.update("jax_platforms", "cpu")
    runs = read_runs([Path(path) for path in run_dirs])
    target = Path(out) if out else runs[0].path / PAGE
    if target.is_dir():
        raise UserError(f"{target}: is a directory; give --out=FILE")
    shown = [choose(run, share) for run, share in zip(runs, shares(runs, most_traces), strict=True)]
    title = ", ".join(run.name for run in runs)
    text = page(title, pack(*payload(runs, shown)))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(target.name + ".partial")
        partial.write_text(text, encoding="utf-8")
        partial.replace(target)
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror}); give --out=FILE") from error
    console = Console(highlight=False, soft_wrap=True)
    for run, some in zip(runs, shown, strict=True):
        traces = f"{some.traces} traces of {some.steps} steps" if run.traces else "no traces"
        console.print(f"{run.path}: {run.last_step} steps, {traces}", markup=False)
        for note in (*run.notes, *some.notes):
            console.print(f"  {note}", markup=False)
    console.print(f"{target}: {len(text) / 1e6:.1f} MB; open it in a browser", markup=False)


def page(title: str, data: str) -> str:
    """The page, with everything in it.

    Args:
        title: of the page, plain text. data: base64, see `pack`.
    """
    folder = resources.files("tracelift_jax.report") / "page"

    def joined(names: Sequence[str]) -> str:
        return "\n".join((folder / name).read_text(encoding="utf-8") for name in names)

    parts = {"title": html.escape(title), "styles": joined(STYLES), "scripts": joined(SCRIPTS), "data": data}
    whole = (folder / "page.html").read_text(encoding="utf-8")
    # One pass, so that no part is searched for the names of others.
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], whole)
