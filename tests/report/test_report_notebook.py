"""A report in a notebook: the whole page in a frame, and as lively as in a tab of its own."""

import random

from written import metrics, record, write_run

from tracelift_jax.report.command import run_report
from tracelift_jax.report.notebook import Embedded

INSIDE = "document.querySelector('iframe').contentDocument"


def test_a_page_in_a_frame(browser, tmp_path):
    run = write_run(
        tmp_path / "run", [record(step=step, reasoning="7 & 5 <b>") for step in (1, 2)], metrics(2, random.Random(0))
    )
    run_report([str(run)], None, 10)
    shown = Embedded(str(run / "report.html"), height=321)._repr_html_()
    host = tmp_path / "notebook.html"
    host.write_text(f"<!doctype html><meta charset=utf-8><body>{shown}")
    browser.problems.clear()
    browser.send("Page.navigate", url=host.as_uri())
    browser.wait(f"{INSIDE}.documentElement.dataset.ready === 'true'")
    assert browser.ask("document.querySelector('iframe').clientHeight") == 321
    # To another part; a frame has no address that could lead there.
    browser.ask(f"{INSIDE}.getElementById('tab-traces').click()")
    browser.wait(f"{INSIDE}.getElementById('panel-traces').innerText.includes('7 & 5 <b>')")
    browser.ask("new Promise(done => setTimeout(done, 400))")
    assert browser.problems == []
