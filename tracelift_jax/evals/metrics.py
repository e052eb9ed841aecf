"""What records say, in numpy alone: rates, means and paired differences, with intervals that know about problems.

All traces and answers of one problem share it and are not independent: problems are what varies. So everything is first
averaged within each problem, x_p for problem p, and intervals are those of m, the mean of x_p over P problems:

- `mean`: m +- t(P - 1) * se with the cluster-robust standard error, se^2 = sum (x_p - m)^2 / (P (P - 1)), where the
  clusters are problems of equal weight (Miller, "Adding Error Bars to Evals", arXiv 2411.00640).
- `rate`, of shares of what is right or wrong: Wilson's interval (1927) with as many trials as independent ones would
  have given the same variance, m (1 - m) / v with v = sum (x_p - m)^2 / P^2. That is P where each problem was tried
  once, more where tries of one problem differ, and never more than there were tries (Kish's effective sample size; Dean
  and Pagano, "Evaluating Confidence Interval Methods for Binomial Proportions in Clustered Surveys", 2015). It stays
  inside [0, 1], and has a width where all are right.
- `difference`, of two rates on the same problems, x_p = a_p - b_p: as if half a problem more had been seen of each of
  the four ways in which two sides can be right and wrong, m' +- z * se with m' = sum x_p / (P + 2) and
  se^2 = (1 + sum x_p^2 - (P + 2) m'^2) / (P + 2)^2. Where every problem was tried once, this is the interval of Agresti
  and Min ("Simple improved confidence intervals for comparing matched proportions", 2005). It has a width where all
  problems came out alike; the value itself is m.
- `bootstrap`: percentiles over whole problems drawn with replacement (Efron and Tibshirani, 1993).
- `mcnemar`, on one outcome a problem: of the problems that exactly one side got right, each side got half under the
  null hypothesis, binomially (McNemar, 1947).

Every interval is at 95 %.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from tracelift_jax.evals.pass_at_k import passes_at_k
from tracelift_jax.rollout.evaluate import wilson

RESAMPLES = 10_000
_CHUNK = 500

Value = dict[str, Any]
"""A number with its interval: {"value", "low", "high", "n"}, n problems; None where there is nothing to measure."""


@dataclasses.dataclass(frozen=True)
class Outcomes:
    """n traces of one benchmark, source, executor and mode, a row each.

    Attributes:
        problem: int [n], of which problem, in [0, P). problems: P, of the benchmark.
        right, judged: int [n], right answers as they count, and answers that were judged.
        answers, failed: int [n], answers asked for, and those that never came.
        compared, disagreed: int [n], answers that device and host both judged, and those they judged differently.
        well_formed, leak, cut: bool [n].
        faithful: float [n], 1 or 0; nan without an oracle. score: float [n], the reward model's; nan without one.
        likelihood: float [n], as it counts; nan where it is not known.
        tokens: int [n], of the reasoning. answer_tokens: float [n], mean length of the answers; nan if not known.
    """

    problem: np.ndarray
    problems: int
    right: np.ndarray
    judged: np.ndarray
    answers: np.ndarray
    failed: np.ndarray
    compared: np.ndarray
    disagreed: np.ndarray
    well_formed: np.ndarray
    leak: np.ndarray
    cut: np.ndarray
    faithful: np.ndarray
    score: np.ndarray
    likelihood: np.ndarray
    tokens: np.ndarray
    answer_tokens: np.ndarray

    def means(self, total: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
        """float [P]: sum of `total` [n] over sum of `weight` [n] (default 1) in each problem; nan where that is 0.

        Rows whose total is nan are left out.
        """
        known = np.isfinite(total)
        weight = np.ones(len(total)) if weight is None else weight
        over = np.bincount(self.problem[known], total[known], self.problems)
        under = np.bincount(self.problem[known], weight[known], self.problems)
        return np.divide(over, under, out=np.full(self.problems, np.nan), where=under > 0)

    @property
    def accuracy(self) -> np.ndarray:
        """float [P], the share of right answers; nan where none was judged."""
        return self.means(self.right.astype(float), self.judged.astype(float))


def nothing() -> Value:
    """What was not measured."""
    return {"value": None, "low": None, "high": None, "n": 0}


def mean(x: np.ndarray, least: float = -1.0, most: float = 1.0) -> Value:
    """The mean over problems of x float [P], nan where not known, with its t interval (none for one problem).

    Args:
        least, most: what an x can be; the interval is cut there.
    """
    x = x[np.isfinite(x)]
    count = len(x)
    if not count:
        return nothing()
    value, low, high = float(x.mean()), None, None
    if count > 1:
        error = float(np.sqrt(np.sum((x - value) ** 2) / (count * (count - 1))))
        half = float(stats.t.ppf(0.975, count - 1)) * error
        low, high = max(value - half, least), min(value + half, most)
    return {"value": value, "low": low, "high": high, "n": count}


def difference(x: np.ndarray) -> Value:
    """The mean of differences of shares x float [P], nan where not known, with Agresti and Min's interval."""
    x = x[np.isfinite(x)]
    count = len(x)
    if not count:
        return nothing()
    seen = count + 2
    centre = float(x.sum()) / seen
    half = float(stats.norm.ppf(0.975)) * float(np.sqrt(1 + np.sum(x * x) - seen * centre**2)) / seen
    value = float(x.mean())
    return {"value": value, "low": max(centre - half, -1.0), "high": min(centre + half, 1.0), "n": count}


def rate(x: np.ndarray, tries: float) -> Value:
    """The mean over problems of shares x float [P] in [0, 1], nan where not known, with Wilson's interval.

    Args:
        tries: how many there were, over all problems.
    """
    x = x[np.isfinite(x)]
    count = len(x)
    if not count:
        return nothing()
    value = float(x.mean())
    variance = float(np.sum((x - value) ** 2)) / count**2
    spread = value * (1 - value)
    # Where all problems are alike, the tries are as good as independent, unless none of them differ at all.
    trials = float(count) if spread == 0 else min(spread / variance, tries) if variance > 0 else tries
    low, high = wilson(value * trials, trials)
    # At the ends, 0 and 1, rounding may leave the value outside.
    return {"value": value, "low": min(low, value), "high": max(high, value), "n": count}


def bootstrap(x: np.ndarray, seed: int) -> Value:
    """The mean over problems of x float [P], nan where not known, with its percentile bootstrap interval."""
    x = x[np.isfinite(x)]
    count = len(x)
    if not count:
        return nothing()
    rng = np.random.default_rng(seed)
    # How often each problem is drawn, times its value: the same as drawing rows, and a matrix product.
    shares = np.full(count, 1 / count)
    drawn = [rng.multinomial(count, shares, size=_CHUNK) @ x / count for _ in range(RESAMPLES // _CHUNK)]
    low, high = np.quantile(np.concatenate(drawn), [0.025, 0.975])
    return {"value": float(x.mean()), "low": float(low), "high": float(high), "n": count}


def mcnemar(a: np.ndarray, b: np.ndarray) -> dict[str, Any]:
    """McNemar's exact test of float [P] outcomes 1 and 0 on the same problems, nan where not known.

    Returns:
        `only_a`, `only_b`: problems that one side alone got right; `p`: two-sided, 1 where there are none.
    """
    both = np.isfinite(a) & np.isfinite(b)
    only_a, only_b = int(np.sum((a > b)[both])), int(np.sum((b > a)[both]))
    differ = only_a + only_b
    p = float(stats.binomtest(only_a, differ, 0.5).pvalue) if differ else 1.0
    return {"only_a": only_a, "only_b": only_b, "p": p, "n": int(both.sum())}


def holm(p: Sequence[float]) -> list[float]:
    """P-values adjusted for having tested them all (Holm, 1979), in the order given."""
    order = np.argsort(p, kind="stable")
    adjusted, highest = [0.0] * len(p), 0.0
    for place, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p) - place) * p[index]))
        adjusted[int(index)] = highest
    return adjusted


def lengths(tokens: np.ndarray) -> dict[str, float | None]:
    """Mean, median and 95th percentile."""
    if not len(tokens):
        return {"mean": None, "p50": None, "p95": None}
    p50, p95 = np.quantile(tokens, [0.5, 0.95])
    return {"mean": float(np.mean(tokens)), "p50": float(p50), "p95": float(p95)}


def weighted(x: np.ndarray, weight: np.ndarray) -> float | None:
    """The mean of x float [n], nan where not known, by weight."""
    known = np.isfinite(x)
    total = float(weight[known].sum())
    return float((x * weight)[known].sum() / total) if total else None


def pass_at(found: Outcomes, k: int) -> Value:
    """pass@k over problems, as a `rate`; a problem with fewer than k judged answers is not in it."""
    right, judged = (
        np.bincount(found.problem, counts, found.problems).astype(np.int64) for counts in (found.right, found.judged)
    )
    # Of n answers there are n // k tries of k that share none.
    return rate(passes_at_k(judged, right, k), float(np.sum(judged // k)))


def summary(found: Outcomes, alone: Outcomes | None, passes: Sequence[int] = ()) -> dict[str, Any]:
    """All that is told of one benchmark, source, executor and mode.

    Args:
        alone: the executor without reasoning. passes: the k's of `pass_at`.
    """
    n = len(found.problem)
    right, judged = found.right.astype(float), found.judged.astype(float)
    likelihood = found.means(found.likelihood)
    out: dict[str, Any] = {
        "problems": len(np.unique(found.problem)),
        "traces": n,
        "answers": int(found.answers.sum()),
        "failed": int(found.failed.sum()),
        "compared": int(found.compared.sum()),
        "disagreed": int(found.disagreed.sum()),
        "accuracy": rate(found.accuracy, float(found.judged.sum())),
        "pass_at": {str(k): pass_at(found, k) for k in passes},
        "likelihood": mean(likelihood, 0.0),
        "uplift": difference(found.accuracy - alone.accuracy) if alone else nothing(),
        "uplift_likelihood": mean(likelihood - alone.means(alone.likelihood)) if alone else nothing(),
        "well_formed": rate(found.means(found.well_formed.astype(float)), n),
        "leak": rate(found.means(found.leak.astype(float)), n),
        "cut": int(found.cut.sum()),
        "faithful": rate(found.means(found.faithful), int(np.isfinite(found.faithful).sum())),
        "wrong_reason": rate(found.means((1 - found.faithful) * right, judged), float(found.judged.sum())),
        "score": mean(found.means(found.score), 0.0),
        "score_right": weighted(found.score, right),
        "score_wrong": weighted(found.score, judged - right),
        "tokens": lengths(found.tokens),
        "answer_tokens": lengths(found.answer_tokens[np.isfinite(found.answer_tokens)]),
    }
    return out
