"""Same-problem groups: one positive trace, its flawed siblings and their rubric labels."""

from tracelift_jax.groups.build import build_groups
from tracelift_jax.groups.load import load_groups

__all__ = ["build_groups", "load_groups"]
