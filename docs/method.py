"""The picture of docs/method.md: `python docs/method.py` writes docs/method_shaping.svg."""

from pathlib import Path

import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from tracelift_jax.rollout.shaping import Shaping, shaped

PICTURE = Path(__file__).parent / "method_shaping.svg"
SCORES = (0.2, 0.5, 0.9)
TITLES: dict[Shaping, str] = {"product": "product (reference): s·u", "sign_aware": "sign-aware (ours)"}


def figure() -> Figure:
    """The quality term against the uplift, a line a score, for both shapings."""
    drawn = Figure(figsize=(8, 3.2), layout="constrained")
    uplift = jnp.linspace(-1, 1, 5)  # straight on both sides of 0
    for axes, (shaping, title) in zip(drawn.subplots(1, 2, sharey=True), TITLES.items(), strict=True):
        for score in SCORES:
            axes.plot(uplift, np.asarray(shaped(jnp.float32(score), uplift, shaping)), label=f"score {score}")
        axes.axhline(0, color="0.8", linewidth=0.8, zorder=0)
        axes.axvline(0, color="0.8", linewidth=0.8, zorder=0)
        axes.set(title=title, xlabel="uplift u")
        axes.legend(frameon=False)
    drawn.axes[0].set_ylabel("quality term")
    return drawn


def write(path: Path) -> None:
    """The picture as SVG, the same bytes each time."""
    with matplotlib.rc_context({"svg.hashsalt": "method", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure().savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    write(PICTURE)
