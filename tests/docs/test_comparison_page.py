"""The comparison names its sources and its day, and its own numbers are those of the pages they come from."""

import re

from pages import DOCS, ROOT, table

TEXT = (DOCS / "comparison.md").read_text()


def test_every_source_is_named_and_used():
    body, sources = TEXT.split("## Sources")
    defined = re.findall(r"^- \[(\w)\] \[", sources, re.MULTILINE)
    assert len(set(defined)) == len(defined) >= 5
    assert set(re.findall(r"\[(\w)\](?!\()", body)) == set(defined)
    assert len(re.findall(r"\d{4}-\d\d-\d\d", TEXT)) == 2  # of the page, and of its sources
    assert all(url.startswith("https://") for url in re.findall(r"\]\((http[^)]*)\)", TEXT))


def test_our_own_numbers_are_measured_elsewhere():
    rows = {row[0]: row for row in table(TEXT, "## Planner and executor")}
    uplift = (DOCS / "uplift.md").read_text()
    for name in re.findall(r"\d\.\d{3}", " ".join(rows["noise of the uplift"])):
        assert name in uplift
    [operations] = re.findall(r"\d\.\d{3}", " ".join(rows["the problem's tokens"]))
    assert operations in (ROOT / "benchmarks" / "README.md").read_text()


def test_no_speed_without_a_command():
    """Seconds of others are published when a benchmark in this repository measures them."""
    part = TEXT.split("## Speed")[1].split("## ")[0]
    assert not re.search(r"\d+(\.\d+)? (s|ms|seconds)\b", part)
