"""The service under load."""

import pytest

from benchmarks.serve_load import run


@pytest.mark.slow
def test_two_hundred_requests_at_a_time():
    """The benchmark fails on any answer that is an error, or that has other scores than the same items had before."""
    found = run(requests=200, items=4, rounds=1)
    assert found["requests"] == 200
    print(f"{found['items_per_second']:.0f} items/s, p99 {found['p99_ms']:.0f} ms")
