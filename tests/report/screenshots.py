"""The pictures of the README: `python tests/report/screenshots.py runs/exec_only runs/tracelift` writes them to docs/.

The runs are those that launch/local.sh leaves; any others do too. It needs a Chromium, see `browser.py`.
"""

import sys
import tempfile
import time
from pathlib import Path

from browser import Page, chromium, find_chromium
from PIL import Image

from tracelift_jax.report.command import run_report

DOCS = Path(__file__).resolve().parents[2] / "docs"
CURVES, INSPECTOR = "report_curves.png", "report_inspector.png"


def take(page: Page, report: Path, folder: Path) -> None:
    """Writes both pictures of a report."""
    page.size(1280, 860)
    page.prefer("light")
    page.open(report, "#curves")
    page.wait("document.querySelectorAll('canvas').length >= 6")
    time.sleep(0.5)  # until all of them are painted
    page.picture(folder / CURVES)
    page.size(1280, 1010)
    page.open(report, "#traces")
    # A trace that is right for the wrong reason, of the last run, in a group where others are not.
    page.ask("""{
      const last = report.runs.length - 1, {groups, traces} = report;
      const wrong = trace => traces.flags[trace] & FLAGS[0].bit;
      const shown = report.ranked.flat().filter(trace => groups.run[report.groupOf[trace]] === last && wrong(trace));
      const clear = shown.find(trace => traces.mark[trace] && report.rankOf[trace] > 2);
      inspector.open(clear ?? shown[0] ?? 0);
    }""")
    time.sleep(0.5)
    page.picture(folder / INSPECTOR)


def main(run_dirs: list[str]) -> None:
    """Makes a report of the runs, and the pictures of it."""
    binary = find_chromium()
    if binary is None or not run_dirs:
        sys.exit(f"{__doc__}")
    with tempfile.TemporaryDirectory() as folder, chromium(binary) as page:
        report = Path(folder) / "report.html"
        run_report(run_dirs, str(report), 30_000)
        take(page, report, DOCS)
    for name in (CURVES, INSPECTOR):
        with Image.open(DOCS / name) as picture:  # 128 colours are enough for it, and a third of the size
            picture.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(DOCS / name, optimize=True)
        print(DOCS / name, (DOCS / name).stat().st_size)


if __name__ == "__main__":
    main(sys.argv[1:])
