"""The table of `benchmarks/attention_memory.py`; its figures need libtpu, which has an environment of its own."""

import importlib.util

import pytest

from benchmarks.attention_memory import main, table
from tracelift_jax.errors import UserError


def test_the_table_is_markdown():
    rows = [{"attention": "xla", "reading": 1_234_567_890, "gradient": 20_000_000_000}]
    assert table(rows).splitlines() == [
        "| attention | reading | gradient |",
        "|---|---:|---:|",
        "| xla | 1.23 GB | 20.00 GB |",
    ]


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is not None, reason="libtpu is here")
def test_without_libtpu_it_says_so():
    with pytest.raises(UserError, match=r"^attention_memory: there is no libtpu here; pip install libtpu "):
        main([])
