"""What the pages point at is there: files, headings, modules, experiments; and the index has every page."""

import re

import pytest
from pages import DOCS, PAGES, ROOT, anchors


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links(page):
    text = page.read_text()
    for file, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", text):
        target = (page.parent / file) if file else page
        assert target.exists(), file
        if anchor:
            assert anchor in anchors(target.read_text()), f"{file}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named(page):
    """Whole paths from the repository, and modules by their path in the package."""
    text = page.read_text()
    there = [ROOT, ROOT / "tracelift_jax", DOCS, ROOT / "examples", *ROOT.glob("experiments/*/")]
    for name in re.findall(r"`((?:[\w.]+/)+[\w.{},*-]+\.(?:py|gin|sh))`", text):
        for path in _spelt_out(name):
            assert any(list(folder.glob(path)) for folder in there), path


def _spelt_out(name: str) -> list[str]:
    """A name with braces as the names that a shell makes of it."""
    braces = re.search(r"\{([^}]*)\}", name)
    if not braces:
        return [name]
    return [path for one in braces[1].split(",") for path in _spelt_out(name.replace(braces[0], one, 1))]


def test_the_index_has_every_page_and_the_readme_points_at_it():
    index = (DOCS / "README.md").read_text()
    pages = {page.name for page in DOCS.glob("*.md")} - {"README.md"}
    assert pages - set(re.findall(r"\(([\w.]+\.md)\)", index)) == set()
    assert "(docs/README.md)" in (ROOT / "README.md").read_text()
