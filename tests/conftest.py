"""What all tests share: CPU, a cache of compiled functions, hypothesis without chance, shared data, tiny models."""

import dataclasses
import gc
import os
from pathlib import Path

import hypothesis
import jax
import jaxlib.version
import pytest
from tinies import TINY, Tiny, make_tiny

from tracelift_jax.models.einsum import Lora
from tracelift_jax.text.tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parents[1]

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # for subprocesses too; the device count stays as it is
if jaxlib.version.__version_info__ < (0, 11):  # elsewhere the flag may be gone, and XLA ends on one it does not know
    # Most of the suite's time is compiling, and XLA's older code for fused loops takes half of it.
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false".strip()
jax.config.update("jax_platforms", os.environ["JAX_PLATFORMS"])
jax.config.update("jax_disable_most_optimizations", True)  # half again; nobody notices slow code at this size
jax.config.update("jax_compilation_cache_dir", str(ROOT / ".cache" / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)

gc.set_threshold(200_000, 50, 1000)  # tracing makes objects by the million, and to look through them takes a sixth more

hypothesis.settings.register_profile("tracelift", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("tracelift")


LONGEST = (
    "test_processes.py",
    "test_replay.py",
    "test_aot.py",
    "test_notebooks.py",
    "test_data_formats.py",
    "test_program_training.py",
    "test_transformer.py",
    "test_served_training.py",
    "test_rollout.py",
    "test_solve.py",
    "test_adaptive.py",
    "test_files.py",
    "test_planner.py",
)
"""Files that take longest, which begin first: a worker takes whole files, and the others would wait for the last."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONGEST)))  # stable: the others stay in order


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of public data files beside the repository; skips where there is none."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}")
    return folder


@pytest.fixture(scope="session")
def dial_tokenizer() -> Tokenizer:
    """The tokenizer shipped for the dial world: 256 byte tokens, words and tags."""
    return Tokenizer.load(ROOT / "tracelift_jax" / "assets" / "dial" / "tokenizer")


@pytest.fixture(scope="session")
def qwen_tokenizer(shared_data) -> Tokenizer:
    """Qwen2.5's tokenizer, from shared data."""
    return Tokenizer.load(shared_data / "qwen2.5_tokenizer")


@pytest.fixture(scope="session")
def tiny() -> Tiny:
    """Two layers of width 8, vocabulary 37, no adapter."""
    return make_tiny()


@pytest.fixture(scope="session")
def tiny_lora() -> Tiny:
    """`tiny` with an adapter of rank 2 that is not zero."""
    return make_tiny(dataclasses.replace(TINY, lora=Lora(rank=2, alpha=3.0)))


@pytest.fixture(scope="session")
def tiny_of():
    """Tiny models of other configurations: `tiny_of(scan_unroll=1, ...)`."""
    return lambda seed=0, **changes: make_tiny(dataclasses.replace(TINY, **changes), seed)
