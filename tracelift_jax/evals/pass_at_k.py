"""pass@k: the chance that one of k programs is right, from n >= k programs of each problem.

Chen et al., "Evaluating Large Language Models Trained on Code" (arXiv 2107.03374): of n programs, c of them right,
drawn k at a time without replacement, the share of draws with a right one is unbiased: 1 - C(n - c, k) / C(n, k).
"""

import math
from fractions import Fraction

import numpy as np

from tracelift_jax.errors import UserError


def pass_at_k(samples: int, right: int, k: int) -> float:
    """The estimate for one problem, calculated exactly and rounded once.

    Args:
        samples: n, programs that were judged. right: c, those that passed. k: how many tries count as one.

    Raises:
        UserError: k is below 1 or above n, or c is outside [0, n].
    """
    if not 1 <= k <= samples:
        raise UserError(f"pass@{k} needs k from 1 to the number of samples, which is {samples}; draw more, or lower k")
    if not 0 <= right <= samples:
        raise UserError(f"pass@{k}: {right} right of {samples} samples")
    return float(1 - Fraction(math.comb(samples - right, k), math.comb(samples, k)))


def passes_at_k(samples: np.ndarray, right: np.ndarray, k: int) -> np.ndarray:
    """The estimate of each problem.

    Args:
        samples, right: int [P], as in `pass_at_k`.

    Returns:
        float [P]; nan where fewer than k programs were judged, because others failed: nothing is known there.
    """
    pairs = zip(samples.tolist(), right.tolist(), strict=True)
    return np.array([pass_at_k(n, c, k) if n >= k else math.nan for n, c in pairs], float)
