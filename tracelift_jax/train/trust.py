"""Whether a reward model can be trusted: what its held-out predictions say, in numpy alone.

Every function takes `Predictions`, one row for each trace, so that any part of them (one kind of flaw, one quarter of
the lengths) can be looked at in the same way as the whole. Traces of one group share a problem and are not independent.
Intervals are at 95 % and say how the numbers would vary over other *groups*:

- means (errors, differences): percentile bootstrap; whole groups are drawn with replacement, RESAMPLES times, seed 0;
- rates (pairs, groups): Wilson's interval with the number of groups as the number of trials, as if the pairs of a group
  were one observation. It never has width 0, which a bootstrap has where every pair is right.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tracelift_jax.rollout.evaluate import wilson

BINS = 15
RESAMPLES = 1000

Value = dict[str, Any]
"""A number with its interval: {"value", "low", "high", "n"}; None for all but "n" where there is nothing to measure."""


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What a reward model said of n traces, and what it should have said.

    Attributes:
        logits: float [n, 5, C] of the five dimensions.
        total: float [n] in [0, 1], the directly predicted total. score: float [n] in [0, 1] (METHOD).
        labels: int [n, 5] in [0, C). totals: float [n] in [0, 1], the true ones.
        kind: str [n], the flaw; "" for a positive.
        group: int [n], rows of the same problem have the same number.
        length: int [n], tokens of the trace.
        leaked: float [n], the score of the same trace with the final answer written behind it; nan: not measured.
    """

    logits: np.ndarray
    total: np.ndarray
    score: np.ndarray
    labels: np.ndarray
    totals: np.ndarray
    kind: np.ndarray
    group: np.ndarray
    length: np.ndarray
    leaked: np.ndarray

    def __post_init__(self) -> None:
        shapes = {field.name: getattr(self, field.name).shape for field in dataclasses.fields(self)}
        rows = len(self.score)
        dims = shapes["logits"][1:2]
        if shapes["logits"] != (rows, *dims, *shapes["logits"][2:3]) or shapes["labels"] != (rows, *dims):
            raise ValueError(f"logits {shapes['logits']} and labels {shapes['labels']} do not belong together")
        if any(shape != (rows,) for name, shape in shapes.items() if name not in ("logits", "labels")):
            raise ValueError(f"columns of different lengths: {shapes}")

    def __len__(self) -> int:
        return len(self.score)

    def where(self, chosen: np.ndarray) -> "Predictions":
        """The rows where bool [n] `chosen` holds."""
        return Predictions(*(getattr(self, field.name)[chosen] for field in dataclasses.fields(self)))

    @property
    def positive(self) -> np.ndarray:
        """bool [n]."""
        return self.kind == ""

    @property
    def kinds(self) -> list[str]:
        """The flaws that occur, in alphabetical order."""
        return sorted({str(kind) for kind in self.kind} - {""})


# --- Intervals --------------------------------------------------------------------------------------------------------


def nothing() -> Value:
    """A value that nothing was there to measure for."""
    return {"value": None, "low": None, "high": None, "n": 0}


def rate(right: np.ndarray, group: np.ndarray) -> Value:
    """The mean of [n] `right`, bool or in [0, 1], with Wilson's interval of that rate over as many trials as groups."""
    if not len(right):
        return nothing()
    value, trials = float(np.mean(right)), len(np.unique(group))
    low, high = wilson(value * trials, trials)
    return {"value": value, "low": low, "high": high, "n": len(right)}


def mean(values: np.ndarray, group: np.ndarray, then: Callable[[np.ndarray], np.ndarray] = lambda mean: mean) -> Value:
    """`then` of the mean of float [n] `values`, with its bootstrap interval over groups."""
    if not len(values):
        return nothing()
    _, member = np.unique(group, return_inverse=True)
    groups = member.max() + 1
    sums, counts = np.bincount(member, values, groups), np.bincount(member, minlength=groups)
    draws = np.random.default_rng(0).multinomial(groups, np.full(groups, 1 / groups), RESAMPLES)
    low, high = np.quantile(then((draws @ sums) / (draws @ counts)), [0.025, 0.975])
    return {"value": float(then(np.array(values.mean()))), "low": float(low), "high": float(high), "n": len(values)}


# --- Ranking ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Every (positive, negative) of the same group.

    Attributes:
        right: bool [m], the positive's score is above the negative's; a tie is wrong.
        kind: str [m], of the negative. group: int [m]. length: int [m], of the negative.
        longer: float [m], 1 where the positive has more tokens than the negative, 0.5 where it has as many.
    """

    right: np.ndarray
    kind: np.ndarray
    group: np.ndarray
    length: np.ndarray
    longer: np.ndarray


def pairs(p: Predictions) -> Pairs:
    """The pairs of all groups; a group without a positive or without a negative has none."""
    order = np.argsort(p.group, kind="stable")
    starts = np.flatnonzero(np.diff(p.group[order], prepend=np.nan))
    above, below = [np.zeros(0, int)], [np.zeros(0, int)]
    for rows in np.split(order, starts[1:]) if len(p) else []:
        positive, negative = rows[p.positive[rows]], rows[~p.positive[rows]]
        above.append(np.repeat(positive, len(negative)))
        below.append(np.tile(negative, len(positive)))
    high, low = np.concatenate(above), np.concatenate(below)
    longer = (1 + np.sign(p.length[high] - p.length[low])) / 2
    return Pairs(p.score[high] > p.score[low], p.kind[low], p.group[low], p.length[low], longer)


def ranking(p: Predictions) -> dict[str, Value]:
    """METHOD's pair accuracy (positive above each negative) and group accuracy (positive above all negatives)."""
    found = pairs(p)
    groups = np.unique(found.group)
    whole = np.array([found.right[found.group == group].all() for group in groups], bool)
    return {"pair_accuracy": rate(found.right, found.group), "group_accuracy": rate(whole, groups)}


# --- Grades -----------------------------------------------------------------------------------------------------------


def probabilities(logits: np.ndarray) -> np.ndarray:
    """float64 softmax over the last axis."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def macro_f1(predicted: np.ndarray, labels: np.ndarray) -> float:
    """The mean of 2 TP / (2 TP + FP + FN) over the labels that occur in int [n] `predicted` or `labels`."""
    scores = []
    for label in np.union1d(predicted, labels):
        said, true = predicted == label, labels == label
        scores.append(2 * np.sum(said & true) / (np.sum(said) + np.sum(true)))
    return float(np.mean(scores))


def reliability(logits: np.ndarray, labels: np.ndarray) -> list[dict[str, Any]]:
    """How often the predicted label is right, by how sure the model was.

    Args:
        logits: float [n, C]. labels: int [n].

    Returns:
        A row for each of BINS equal parts (low, high] of the confidences (0, 1]: `n`, mean `confidence` and `accuracy`
        of the predictions in it, None where there are none.
    """
    chances = probabilities(logits)
    confidence, right = chances.max(-1), chances.argmax(-1) == labels
    part = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    rows = []
    for index in range(BINS):
        inside = part == index
        some = bool(inside.any())
        rows.append(
            {
                "low": index / BINS,
                "high": (index + 1) / BINS,
                "n": int(inside.sum()),
                "confidence": float(confidence[inside].mean()) if some else None,
                "accuracy": float(right[inside].mean()) if some else None,
            }
        )
    return rows


def calibration_error(rows: Sequence[dict[str, Any]]) -> float:
    """Expected calibration error of `reliability`'s rows: sum over bins of n_bin / n · |accuracy - confidence|.

    Guo et al., On Calibration of Modern Neural Networks (arXiv 1706.04599), eq. 5; the confidence is the probability of
    the predicted label. 0 is perfect. It is biased upward where bins hold few predictions.
    """
    filled = [row for row in rows if row["n"]]
    gaps = sum(row["n"] * abs(row["accuracy"] - row["confidence"]) for row in filled)
    return gaps / sum(row["n"] for row in filled)


def grading(p: Predictions, names: Sequence[str]) -> dict[str, Any]:
    """How near the grades are; `p` not empty, `names` of the five dimensions.

    Returns:
        `mae`, `rmse` and `bias` (score less true total, signed) of the score; `total_mae` of the direct total;
        `mean_score`, `mean_total` (the true one) and the `highest` score;
        `dimensions`: for each its `accuracy` of the predicted label, `macro_f1`, `ece`, mean `confidence`.
    """
    error = p.score.astype(np.float64) - p.totals
    predicted, sure = p.logits.argmax(-1), probabilities(p.logits).max(-1)
    return {
        "mae": mean(np.abs(error), p.group),
        "rmse": mean(np.square(error), p.group, np.sqrt),
        "bias": mean(error, p.group),
        "total_mae": mean(np.abs(p.total.astype(np.float64) - p.totals), p.group),
        "mean_score": float(p.score.mean()),
        "mean_total": float(p.totals.mean()),
        "highest": float(p.score.max()),
        "dimensions": {
            name: {
                "accuracy": float(np.mean(predicted[:, d] == p.labels[:, d])),
                "macro_f1": macro_f1(predicted[:, d], p.labels[:, d]),
                "ece": calibration_error(reliability(p.logits[:, d], p.labels[:, d])),
                "confidence": float(sure[:, d].mean()),
            }
            for d, name in enumerate(names)
        },
    }


def by_kind(p: Predictions, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """`grading` and the pair accuracy of each kind of flaw, and `grading` of the positives, whose key is ""."""
    found = pairs(p)
    out: dict[str, dict[str, Any]] = {}
    for kind in (*([""] if p.positive.any() else []), *p.kinds):
        rows, of_kind = p.where(p.kind == kind), found.kind == kind
        accuracy = rate(found.right[of_kind], found.group[of_kind])
        out[kind] = {"n": len(rows), "pair_accuracy": accuracy, **grading(rows, names)}
    return out


# --- Without reading --------------------------------------------------------------------------------------------------


def baselines(p: Predictions, names: Sequence[str]) -> dict[str, Any]:
    """What one gets without reading any trace: what a reward model's numbers are to be held against.

    Returns:
        `pair_accuracy` of a grader that goes by length alone, the longer or the shorter trace being better, whichever
            is right more often (`longer_is_better`); a tie is right half the time. `kinds`: the same by kind of flaw.
        `group_accuracy` of a random order.
        `constant`: the median of the true totals, and its mean absolute error `mae`, the least that a score which is
            always the same can have.
        `labels`: for each dimension how often the commonest label is the right one.
    """
    found = pairs(p)
    longer_is_better = bool(len(found.longer) and found.longer.mean() >= 0.5)
    right = found.longer if longer_is_better else 1 - found.longer
    kinds = {kind: rate(right[found.kind == kind], found.group[found.kind == kind]) for kind in p.kinds}
    sizes = [np.sum(p.group == group) for group in np.unique(found.group)]
    constant = float(np.median(p.totals))
    return {
        "longer_is_better": longer_is_better,
        "pair_accuracy": rate(right, found.group),
        "kinds": kinds,
        "group_accuracy": float(np.mean([1 / size for size in sizes])) if sizes else None,
        "constant": constant,
        "mae": mean(np.abs(constant - p.totals), p.group),
        "labels": {name: float(np.bincount(p.labels[:, d]).max() / len(p)) for d, name in enumerate(names)},
    }


# --- Sensitivity ------------------------------------------------------------------------------------------------------


def ranks(values: np.ndarray) -> np.ndarray:
    """float [n], ranks from 1; equal values share the mean of their ranks."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[place]


def spearman(a: np.ndarray, b: np.ndarray) -> float | None:
    """Spearman's rank correlation: Pearson's of `ranks`; None where one side is constant or empty."""
    x, y = (ranks(side) - (len(side) + 1) / 2 for side in (a, b))
    scale = np.sqrt(np.sum(x * x) * np.sum(y * y))
    return float(np.sum(x * y) / scale) if scale > 0 else None


def length_sensitivity(p: Predictions) -> dict[str, Any]:
    """How the score goes with the length of a trace.

    Returns:
        `positives`, `negatives`: Spearman's correlation of length with `score`, and with the `error` (score less true
            total), which is not moved by longer traces being better or worse ones.
        `quarters`: traces by length, cut at the quartiles (a length on a cut goes below it): `shortest`, `longest`,
            `n`, `mae`, `bias`, and the `pair_accuracy` of the negatives in it. Quarters without a trace are left out.
    """
    out: dict[str, Any] = {}
    error = p.score.astype(np.float64) - p.totals
    for name, chosen in (("positives", p.positive), ("negatives", ~p.positive)):
        length = p.length[chosen]
        out[name] = {
            "n": len(length),
            "score": spearman(length, p.score[chosen]),
            "error": spearman(length, error[chosen]),
        }
    found = pairs(p)
    cuts = np.quantile(p.length, [0.25, 0.5, 0.75])
    quarter, of_pair = np.searchsorted(cuts, p.length), np.searchsorted(cuts, found.length)
    out["quarters"] = [
        {
            "shortest": int(p.length[inside].min()),
            "longest": int(p.length[inside].max()),
            "n": int(inside.sum()),
            "mae": mean(np.abs(error[inside]), p.group[inside]),
            "bias": mean(error[inside], p.group[inside]),
            "pair_accuracy": rate(found.right[of_pair == index], found.group[of_pair == index]),
        }
        for index in range(4)
        if (inside := quarter == index).any()
    ]
    return out


def leak_sensitivity(p: Predictions) -> dict[str, Any]:
    """What writing the final answer behind a trace does to its score.

    Returns:
        For `positives` and `negatives`: the mean paired `difference` (with the answer less without), and the share
        `raised` of traces whose score went up.
    """
    out = {}
    measured = np.isfinite(p.leaked)
    for name, chosen in (("positives", p.positive & measured), ("negatives", ~p.positive & measured)):
        difference = p.leaked[chosen].astype(np.float64) - p.score[chosen]
        out[name] = {
            "difference": mean(difference, p.group[chosen]),
            "raised": rate(difference > 0, p.group[chosen]),
        }
    return out


def measure(p: Predictions, names: Sequence[str]) -> dict[str, Any]:
    """Everything above as one tree of plain values; `p` not empty, `names` of the five dimensions."""
    return {
        "groups": len(np.unique(p.group)),
        "traces": len(p),
        "dimensions": list(names),
        "ranking": ranking(p),
        "grading": grading(p, names),
        "kinds": by_kind(p, names),
        "baselines": baselines(p, names),
        "length": length_sensitivity(p),
        "leak": leak_sensitivity(p),
        "reliability": {name: reliability(p.logits[:, d], p.labels[:, d]) for d, name in enumerate(names)},
    }
