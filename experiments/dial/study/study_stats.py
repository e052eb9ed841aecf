"""What seeds say: intervals, exact tests and censored times, in numpy.

Seeds are what varies, and there are few of them: intervals are Student's t over seeds, at 95 %, and tests are exact.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

RESAMPLES = 4000
MOST = 16
"""Pairs of which all 2^n signs are tried."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean with its interval; without one (nan) where there is a single value.

    Attributes:
        n: values it is of.
    """

    value: float
    low: float
    high: float
    n: int


def over_seeds(x: Sequence[float] | np.ndarray) -> Estimate:
    """The mean of x [n] and Student's interval, m +- t(n - 1) s / sqrt(n)."""
    x = np.asarray(x, float)
    n, mean = len(x), float(np.mean(x))
    half = float(stats.t.ppf(0.975, n - 1) * np.std(x, ddof=1) / math.sqrt(n)) if n > 1 else math.nan
    return Estimate(mean, mean - half, mean + half, n)


def over_seeds_and_problems(d: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of d [seeds, problems], drawing seeds and problems independently.

    Both are crossed: all seeds are measured on the same problems (Owen's pigeonhole bootstrap, 2007). With few seeds it
    is too narrow in the seeds' direction, which `over_seeds` is not.
    """
    rng = np.random.default_rng(seed)
    seeds, problems = d.shape
    of_seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES) / seeds
    of_problems = rng.multinomial(problems, np.full(problems, 1 / problems), RESAMPLES) / problems
    low, high = np.quantile(np.einsum("rs,sp,rp->r", of_seeds, d, of_problems, optimize=True), [0.025, 0.975])
    return float(low), float(high)


def sign_flips(d: Sequence[float] | np.ndarray) -> float:
    """Two-sided p of paired differences d [n] with mean 0: the share of the 2^n signs with a mean as far from 0.

    Under the null hypothesis the two arms of a seed could be exchanged (Fisher, 1935). No p is below 2 / 2^n.

    Raises:
        ValueError: more than MOST differences.
    """
    d = np.asarray(d, float)
    if len(d) > MOST:
        raise ValueError(f"{len(d)} pairs: all signs are tried of at most {MOST}")
    signs = np.array(list(itertools.product((1.0, -1.0), repeat=len(d))))
    sums = np.abs(signs @ d)
    return float(np.mean(sums >= abs(d.sum()) - 1e-12 * np.abs(d).sum()))


def reached(curve: Sequence[float] | np.ndarray, level: float, window: int) -> int | None:
    """The first step, from 1 on, at which the mean of the last `window` values of the curve is at least `level`.

    None where that does not happen. There are no means of fewer than `window` values.
    """
    curve = np.asarray(curve, float)
    if len(curve) < window:
        return None
    means = np.convolve(curve, np.full(window, 1 / window), mode="valid")
    above = np.nonzero(means >= level - 1e-9)[0]
    return int(above[0]) + window if len(above) else None


@dataclasses.dataclass(frozen=True)
class Times:
    """Times of which some are only known to be longer than the runs.

    Attributes:
        median, least, most: None where it is censored. known: how many are not. n: all.
    """

    median: float | None
    least: float | None
    most: float | None
    known: int
    n: int


def summarize_times(times: Sequence[int | None]) -> Times:
    """The median and the range; a median of which a censored time is part is censored.

    The range of n times holds the true median with probability 1 - 2 / 2^n: 0.94 for five.
    """
    ordered = sorted(math.inf if time is None else time for time in times)
    n = len(ordered)
    median = (ordered[(n - 1) // 2] + ordered[n // 2]) / 2

    def known(time: float) -> float | None:
        return time if math.isfinite(time) else None

    return Times(known(median), known(ordered[0]), known(ordered[-1]), sum(map(math.isfinite, ordered)), n)


def sooner(a: Sequence[int | None], b: Sequence[int | None]) -> tuple[int, int, float]:
    """The exact sign test of paired times: how often a was sooner, how often b, and the two-sided p.

    A censored time is later than any known one; two censored ones, or equal ones, are no pair.
    """
    pairs = [(math.inf if x is None else x, math.inf if y is None else y) for x, y in zip(a, b, strict=True) if x != y]
    first = sum(x < y for x, y in pairs)
    p = float(stats.binomtest(first, len(pairs)).pvalue) if pairs else 1.0
    return first, len(pairs) - first, p
