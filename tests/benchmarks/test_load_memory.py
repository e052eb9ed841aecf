"""Loading and generating at real sizes: what it costs in host memory."""

import pytest

from benchmarks.load_memory import run


@pytest.mark.slow
def test_loading_3_gb_takes_little_more_than_the_parameters(tmp_path):
    """Qwen2.5-1.5B's shape in two files: beyond the parameters at most twice the largest tensor (the embedding)."""
    found = run(tmp_path, "qwen2.5-1.5b", "bfloat16")
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    assert found["largest_tensor"] == 151_936 * 1536 * 2
    assert found["parameters"] == 2 * 1_543_714_304  # as the model card counts
    assert found["extra"] <= 2 * found["largest_tensor"]
    print(f"peak resident {found['peak'] / 1e6:.0f} MB, extra {found['extra'] / 1e6:.0f} MB")


@pytest.mark.slow
def test_a_half_billion_parameters_load_and_generate(tmp_path):
    """Qwen2.5-0.5B's shape in bfloat16 on the CPU, and 16 tokens of it.

    While it generates, XLA's CPU backend holds a float32 copy of the matrices, twice the parameters, beside them.
    """
    found = run(tmp_path, "qwen2.5-0.5b", "bfloat16", tokens=16)
    assert found["parameters"] == 2 * 494_032_768
    assert len(found["generated"]) == 16
    assert all(0 <= token < 151_936 for token in found["generated"])
    assert found["extra"] <= 2 * found["largest_tensor"]
    assert found["peak_generating"] - found["before"] <= 4 * found["parameters"]
    print(f"peak resident {found['peak_generating'] / 1e6:.0f} MB")
