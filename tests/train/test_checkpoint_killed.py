"""A save cut off anywhere leaves the checkpoint before it whole.

`python tests/train/test_checkpoint_killed.py FOLDER` saves step after step until it is killed.
"""

import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from tiny import ROOT, assert_same, subprocess_environment

from tracelift_jax.train.checkpoint import Checkpoints


def make_state(step: int) -> dict[str, Any]:
    """A few megabytes in several files, every number telling the step."""
    return {
        "large": jnp.full((512, 1024), step, jnp.float32),
        "half": jnp.arange(200_000, dtype=jnp.bfloat16) * step,
        "key": jax.random.fold_in(jax.random.key(0), step),
    }


def save_for_ever(folder: Path) -> None:
    """Goes on from what is there; says which steps are on disk."""
    checkpoints = Checkpoints(folder)
    step = max(checkpoints.steps, default=0)
    while True:
        step += 1
        checkpoints.save(step, make_state(step), {"step": step}, score=None)
        checkpoints.wait()
        print(step, flush=True)


@pytest.mark.parametrize("kills", [2, pytest.param(12, marks=pytest.mark.slow)])
def test_killed_while_saving(tmp_path, kills):
    folder, rng, seen = tmp_path / "checkpoints", random.Random(kills), 0
    for _ in range(kills):
        process = subprocess.Popen(
            [sys.executable, __file__, str(folder)],
            cwd=ROOT,
            env=subprocess_environment(),
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        said = int(process.stdout.readline())  # one save is done, the next has begun
        time.sleep(0.3 * rng.random())
        process.kill()
        said = max([said, *map(int, process.communicate()[0].split())])
        checkpoints = Checkpoints(folder)
        found = checkpoints.restore(make_state(0))
        checkpoints.close()
        assert found is not None
        step, state, host = found
        # What was on disk stays, or the save behind it had just become whole.
        assert step in (said, said + 1) and step > seen and host == {"step": step}
        assert_same(state, make_state(step))
        seen = step


if __name__ == "__main__":
    save_for_ever(Path(sys.argv[1]))
