"""A browser for the tests of the page, where there is one."""

from collections.abc import Iterator

import pytest
from browser import Page, chromium, find_chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    """A headless Chromium; skips where neither CHROMIUM nor PATH names one."""
    binary = find_chromium()
    if binary is None:
        pytest.skip("no Chromium on PATH, and the environment variable CHROMIUM names none")
    with chromium(binary) as page:
        page.size(1280, 900)
        yield page
