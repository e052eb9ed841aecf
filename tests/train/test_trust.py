"""The numbers of a reward model's report: worked by hand, against plain loops, and what must always hold."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tracelift_jax.groups.schema import MATH_DIMENSIONS
from tracelift_jax.rollout.evaluate import wilson
from tracelift_jax.train import trust
from tracelift_jax.train.trust import Predictions


def predictions(rows, labels=None, logits=None, leaked=None):
    """From rows (group, kind, score, true total, length); labels are all 0 and predicted with a margin of 1."""
    group, kind, score, totals, length = zip(*rows, strict=True)
    n = len(rows)
    labels = np.zeros((n, 5), int) if labels is None else np.asarray(labels)
    logits = np.eye(5)[labels] if logits is None else np.asarray(logits, float)
    leaked = np.full(n, np.nan) if leaked is None else np.asarray(leaked, float)
    score = np.array(score, float)
    kinds = np.array(kind, str)
    return Predictions(
        logits, score / 2, score, labels, np.array(totals), kinds, np.array(group), np.array(length), leaked
    )


def correlation(a, b):
    """Spearman's by scipy's ranks and numpy's Pearson."""
    return np.corrcoef(stats.rankdata(a), stats.rankdata(b))[0, 1]


THREE = predictions(
    [
        # group 7: right above a, tied with b (wrong)
        (7, "", 0.75, 1.0, 10),
        (7, "a", 0.25, 0.5, 8),
        (7, "b", 0.75, 0.25, 12),
        # group 2: right above both
        (2, "", 0.5, 1.0, 14),
        (2, "b", 0.25, 0.25, 6),
        (2, "b", 0.0, 0.5, 6),
        # group 5: no positive, in no pair
        (5, "a", 1.0, 0.5, 9),
    ]
)


def test_ranking_by_hand():
    found = trust.ranking(THREE)
    assert found["pair_accuracy"]["value"] == 3 / 4
    assert found["pair_accuracy"]["n"] == 4
    # four pairs in two groups count as two trials: 1.5 of 2
    np.testing.assert_allclose((found["pair_accuracy"]["low"], found["pair_accuracy"]["high"]), wilson(1.5, 2))
    assert found["group_accuracy"] == {"value": 0.5, "n": 2, "low": wilson(1, 2)[0], "high": wilson(1, 2)[1]}


def test_a_group_is_right_when_every_positive_is_above_every_negative():
    rows = [(0, "", 0.9, 1.0, 1), (0, "", 0.4, 1.0, 1), (0, "x", 0.5, 0.0, 1), (0, "x", 0.1, 0.0, 1)]
    found = trust.ranking(predictions(rows))
    assert found["pair_accuracy"]["value"] == 3 / 4
    assert found["group_accuracy"]["value"] == 0


def test_without_a_pair_there_is_nothing_to_measure():
    found = trust.ranking(predictions([(0, "", 0.9, 1.0, 1), (1, "x", 0.5, 0.0, 1)]))
    assert found == {"pair_accuracy": trust.nothing(), "group_accuracy": trust.nothing()}
    assert trust.nothing() == {"value": None, "low": None, "high": None, "n": 0}


def test_errors_by_hand():
    # errors: -0.25 -0.25 +0.5 | -0.5 0 -0.5 | +0.5; the direct total is half the score
    found = trust.grading(THREE, MATH_DIMENSIONS)
    assert found["mae"]["value"] == 2.5 / 7
    np.testing.assert_allclose(found["rmse"]["value"], math.sqrt((2 * 0.0625 + 4 * 0.25) / 7))
    np.testing.assert_allclose(found["bias"]["value"], -0.5 / 7)
    # totals: .375-1 .125-.5 .375-.25 .25-1 .125-.25 0-.5 .5-.5
    np.testing.assert_allclose(found["total_mae"]["value"], (0.625 + 0.375 + 0.125 + 0.75 + 0.125 + 0.5 + 0) / 7)
    assert (found["mean_score"], found["mean_total"], found["highest"]) == (3.5 / 7, 4.0 / 7, 1.0)
    assert found["mae"]["n"] == 7


def test_by_kind_by_hand():
    found = trust.by_kind(THREE, MATH_DIMENSIONS)
    assert list(found) == ["", "a", "b"]
    assert [row["n"] for row in found.values()] == [2, 2, 3]
    assert [row["highest"] for row in found.values()] == [0.75, 1.0, 0.75]
    assert found[""]["pair_accuracy"] == trust.nothing()
    assert (found["a"]["pair_accuracy"]["value"], found["a"]["pair_accuracy"]["n"]) == (1.0, 1)
    np.testing.assert_allclose(found["b"]["pair_accuracy"]["value"], 2 / 3)
    np.testing.assert_allclose([row["mae"]["value"] for row in found.values()], [0.375, 0.375, 1 / 3])
    np.testing.assert_allclose([row["bias"]["value"] for row in found.values()], [-0.375, 0.125, 0.0], atol=1e-12)


def test_what_is_got_without_reading_by_hand():
    labels = np.array([[4, 0, 1, 2, 3]] * 4 + [[4, 0, 1, 2, 1]] * 3)
    labels[0, 1] = 4
    found = trust.baselines(dataclasses.replace(THREE, labels=labels), MATH_DIMENSIONS)
    # The positive is longer than a (10 to 8) and twice than b (14 to 6), and once shorter than b (10 to 12).
    assert found["longer_is_better"] is True
    assert found["pair_accuracy"]["value"] == 3 / 4
    assert {kind: row["value"] for kind, row in found["kinds"].items()} == {"a": 1, "b": 2 / 3}
    assert found["group_accuracy"] == 1 / 3  # two groups of three; the third has no pair
    # Totals 1, 0.5, 0.25, 1, 0.25, 0.5, 0.5: the median is 0.5, from which they lie 0.5 0 0.25 0.5 0.25 0 0.
    assert found["constant"] == 0.5
    assert found["mae"]["value"] == 1.5 / 7
    assert list(found["labels"].values()) == [1, 6 / 7, 1, 1, 4 / 7]


def test_going_by_length_takes_the_better_side_and_halves_ties():
    # The positive is shorter, as long, and shorter: right 2.5 of 3 times. Alone, the tie is right half the time.
    rows = [(0, "", 0.9, 1.0, 5), (0, "x", 0.1, 0.0, 7), (0, "y", 0.1, 0.0, 5), (0, "x", 0.1, 0.0, 8)]
    found = trust.baselines(predictions(rows), MATH_DIMENSIONS)
    assert found["longer_is_better"] is False
    np.testing.assert_allclose(found["pair_accuracy"]["value"], 2.5 / 3)
    assert {kind: row["value"] for kind, row in found["kinds"].items()} == {"x": 1, "y": 0.5}
    assert found["group_accuracy"] == 1 / 4
    alone = trust.baselines(predictions([(0, "", 0.9, 1.0, 5), (1, "x", 0.1, 0.0, 7)]), MATH_DIMENSIONS)
    assert (alone["pair_accuracy"], alone["group_accuracy"]) == (trust.nothing(), None)


def test_the_bootstrap_draws_whole_groups():
    """Two groups of constant value: a mean over draws of two groups is 0, 1/2 or 1, however many rows they have."""
    values, group = np.array([0.0] * 50 + [1.0] * 50), np.repeat([3, 9], 50)
    found = trust.mean(values, group)
    assert found == {"value": 0.5, "low": 0.0, "high": 1.0, "n": 100}
    # with 100 groups of one row the same values are known to about +-1.96 * 0.5 / 10
    alone = trust.mean(values, np.arange(100))
    np.testing.assert_allclose((alone["low"], alone["high"]), (0.402, 0.598), atol=0.03)
    # a group of three 1s and one of a single 0: draws give 0, 3/4 or 1
    assert trust.mean(np.array([1.0, 1, 1, 0]), np.array([0, 0, 0, 1])) == {"value": 0.75, "low": 0, "high": 1, "n": 4}
    assert trust.mean(np.array([4.0, 4.0]), np.array([0, 1]), np.sqrt) == {"value": 2, "low": 2, "high": 2, "n": 2}
    assert trust.mean(np.array([]), np.array([])) == trust.nothing()


def test_macro_f1_by_hand():
    labels, predicted = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 0, 3])
    # 0: TP 2 FP 1 FN 1: 4/6. 1: TP 1 FP 1 FN 1: 2/4. 2: never said: 0. 3: never true: 0. 4 does not occur.
    np.testing.assert_allclose(trust.macro_f1(predicted, labels), (4 / 6 + 1 / 2 + 0 + 0) / 4)


def test_calibration_by_hand():
    """Confidences 0.9 (right, right, wrong), 0.5 (right), 0.52 (wrong); 15 bins: 14 for 0.9, 8 for 0.5 and 0.52."""
    confidences, right = [0.9, 0.9, 0.9, 0.5, 0.52], [1, 1, 0, 1, 0]
    logits = np.log([[c, (1 - c) * 0.75, (1 - c) * 0.25] for c in confidences])
    rows = trust.reliability(logits, np.array([0 if ok else 2 for ok in right]))
    assert [(i, row["n"]) for i, row in enumerate(rows) if row["n"]] == [(7, 2), (13, 3)]
    np.testing.assert_allclose((rows[7]["accuracy"], rows[7]["confidence"]), (0.5, 0.51))
    np.testing.assert_allclose((rows[13]["accuracy"], rows[13]["confidence"]), (2 / 3, 0.9))
    np.testing.assert_allclose((rows[7]["low"], rows[7]["high"]), (7 / 15, 8 / 15))
    assert (rows[0]["accuracy"], rows[0]["confidence"]) == (None, None)
    np.testing.assert_allclose(trust.calibration_error(rows), (2 * 0.01 + 3 * (0.9 - 2 / 3)) / 5)


def test_a_confidence_of_one_is_in_the_last_bin():
    rows = trust.reliability(np.array([[1000.0, 0.0], [0.0, 1000.0]]), np.array([0, 0]))
    assert len(rows) == 15
    assert rows[14] == {"low": 14 / 15, "high": 1.0, "n": 2, "confidence": 1.0, "accuracy": 0.5}
    assert trust.calibration_error(rows) == 0.5


def test_dimensions_are_not_mixed_up():
    labels = np.array([[0, 1, 2, 3, 4], [4, 1, 2, 3, 4]])
    logits = 3.0 * np.eye(5)[np.array([[0, 1, 2, 3, 0], [0, 1, 2, 3, 0]])]
    rows = [(0, "", 0.5, 0.5, 1), (0, "x", 0.5, 0.5, 1)]
    found = trust.grading(predictions(rows, labels, logits), MATH_DIMENSIONS)["dimensions"]
    assert list(found) == list(MATH_DIMENSIONS)
    assert [row["accuracy"] for row in found.values()] == [0.5, 1, 1, 1, 0]
    # problem_understanding: label 0 has TP 1 FP 1: 2/3, label 4 is never said; answer_support: 0 and 4, both 0
    np.testing.assert_allclose([row["macro_f1"] for row in found.values()], [1 / 3, 1, 1, 1, 0])
    sure = math.exp(3) / (math.exp(3) + 4)
    np.testing.assert_allclose([row["confidence"] for row in found.values()], sure)
    np.testing.assert_allclose([row["ece"] for row in found.values()], np.abs(sure - np.array([0.5, 1, 1, 1, 0])))


def test_ranks_and_spearman_by_hand():
    assert trust.ranks(np.array([5, 1, 5, 9, 5])).tolist() == [3, 1, 3, 5, 3]
    assert trust.spearman(np.array([1, 2, 3]), np.array([10, 20, 900])) == 1.0
    # d = (0, 1, -1): 1 - 6 * 2 / (3 * 8) = 0.5
    assert trust.spearman(np.array([1, 2, 3]), np.array([1, 3, 2])) == pytest.approx(0.5)
    assert trust.spearman(np.array([1, 1]), np.array([1, 2])) is None
    assert trust.spearman(np.array([]), np.array([])) is None


def test_length_by_hand():
    found = trust.length_sensitivity(THREE)
    # positives: lengths 10, 14, scores .75, .5. negatives: lengths 8 12 6 6 9, errors -.25 .5 0 -.5 .5
    assert found["positives"] == {"n": 2, "score": -1.0, "error": -1.0}
    assert found["negatives"]["n"] == 5
    expected = correlation([8, 12, 6, 6, 9], [-0.25, 0.5, 0, -0.5, 0.5])
    np.testing.assert_allclose(found["negatives"]["error"], expected)
    # sorted 6 6 8 9 10 12 14: cut at 7, 9, 11
    assert [(q["shortest"], q["longest"], q["n"]) for q in found["quarters"]] == [
        (6, 6, 2),
        (8, 9, 2),
        (10, 10, 1),
        (12, 14, 2),
    ]
    assert [q["pair_accuracy"]["value"] for q in found["quarters"]] == [1.0, 1.0, None, 0.0]
    assert [q["mae"]["value"] for q in found["quarters"]] == [0.25, 0.375, 0.25, 0.5]
    assert [q["bias"]["value"] for q in found["quarters"]] == [-0.25, 0.125, -0.25, 0.0]


def test_traces_of_one_length_make_one_quarter():
    rows = [(0, "", 0.9, 1.0, 4), (0, "x", 0.5, 0.0, 4)]
    found = trust.length_sensitivity(predictions(rows))
    assert [(q["shortest"], q["longest"], q["n"]) for q in found["quarters"]] == [(4, 4, 2)]


def test_leaks_by_hand():
    p = dataclasses.replace(THREE, leaked=np.array([1.0, 0.25, 0.5, 0.25, np.nan, 0.5, np.nan]))
    found = trust.leak_sensitivity(p)
    # positives: +0.25, -0.25; negatives: 0, -0.25, (not measured), +0.5, (not measured)
    assert found["positives"]["difference"]["value"] == 0
    assert found["positives"]["raised"]["value"] == 0.5
    np.testing.assert_allclose(found["negatives"]["difference"]["value"], 0.25 / 3)
    assert found["negatives"]["difference"]["n"] == 3
    np.testing.assert_allclose(found["negatives"]["raised"]["value"], 1 / 3)
    assert trust.leak_sensitivity(THREE)["positives"] == {"difference": trust.nothing(), "raised": trust.nothing()}


def test_columns_must_belong_together():
    with pytest.raises(ValueError, match="different lengths"):
        dataclasses.replace(THREE, kind=THREE.kind[:-1])
    with pytest.raises(ValueError, match="do not belong together"):
        dataclasses.replace(THREE, labels=THREE.labels[:, :4])


@st.composite
def any_predictions(draw):
    n = draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = [
        (
            int(rng.integers(4)),
            str(rng.choice(["", "a", "b"])),
            float(rng.integers(5)) / 4,
            float(rng.integers(5)) / 4,
            int(rng.integers(1, 5)),
        )
        for _ in range(n)
    ]
    return predictions(rows, rng.integers(0, 5, (n, 5)), rng.normal(size=(n, 5, 5)), rng.random(n))


@given(any_predictions())
def test_against_plain_loops(p):
    right, whole = [], {}
    for i in range(len(p)):
        for j in range(len(p)):
            if p.group[i] == p.group[j] and p.kind[i] == "" and p.kind[j] != "":
                right.append(p.score[i] > p.score[j])
                whole[p.group[i]] = whole.get(p.group[i], True) and right[-1]
    found = trust.ranking(p)
    assert (found["pair_accuracy"]["n"], found["group_accuracy"]["n"]) == (len(right), len(whole))
    if right:
        np.testing.assert_allclose(found["pair_accuracy"]["value"], sum(right) / len(right))
        np.testing.assert_allclose(found["group_accuracy"]["value"], sum(whole.values()) / len(whole))
    for d in range(5):
        bins: dict[int, list] = {}
        for logits, label in zip(p.logits[:, d], p.labels[:, d], strict=True):
            chances = [math.exp(x) / sum(math.exp(y) for y in logits) for x in logits]
            best = max(range(5), key=chances.__getitem__)
            bins.setdefault(math.ceil(chances[best] * 15), []).append((chances[best], best == label))
        ece = sum(abs(sum(c for c, _ in b) - sum(ok for _, ok in b)) for b in bins.values()) / len(p)
        np.testing.assert_allclose(trust.calibration_error(trust.reliability(p.logits[:, d], p.labels[:, d])), ece)
    if len(set(p.length)) > 1 and len(set(p.score)) > 1:
        assert trust.spearman(p.length, p.score) == pytest.approx(correlation(p.length, p.score), abs=1e-12)


@given(any_predictions(), st.randoms())
def test_order_and_names_of_groups_do_not_matter(p, random):
    order = list(range(len(p)))
    random.shuffle(order)
    other = dataclasses.replace(p, group=10 - 2 * p.group).where(np.array(order))

    def values(tree):
        """All numbers but the ends of bootstrap intervals, which depend on the order that groups are drawn in."""
        if isinstance(tree, dict):
            return [x for key, value in tree.items() if key not in ("low", "high") for x in values(value)]
        if isinstance(tree, list):
            return [x for value in tree for x in values(value)]
        return [-9.0 if tree is None else tree] if not isinstance(tree, str) else []

    np.testing.assert_allclose(
        values(trust.measure(p, MATH_DIMENSIONS)), values(trust.measure(other, MATH_DIMENSIONS)), atol=1e-9
    )


@given(any_predictions())
def test_what_must_hold(p):
    found = trust.measure(p, MATH_DIMENSIONS)

    def intervals(tree):
        if isinstance(tree, dict) and "value" in tree:
            yield tree
        elif isinstance(tree, dict | list):
            for below in tree.values() if isinstance(tree, dict) else tree:
                yield from intervals(below)

    seen = [value for value in intervals(found) if value["n"]]
    assert seen
    for value in seen:
        assert value["low"] <= value["high"]
    grading = found["grading"]
    assert abs(grading["bias"]["value"]) <= grading["mae"]["value"] + 1e-12
    assert grading["mae"]["value"] <= grading["rmse"]["value"] + 1e-12 <= 1 + 1e-9
    for row in grading["dimensions"].values():
        assert 0 <= row["ece"] <= 1
        assert abs(row["confidence"] - row["accuracy"]) <= row["ece"] + 1e-9
        assert 0 <= row["macro_f1"] <= 1
        assert (row["macro_f1"] == 1) == (row["accuracy"] == 1)
    assert sum(row["n"] for row in found["kinds"].values()) == found["traces"] == len(p)
    assert sum(row["n"] for row in found["length"]["quarters"]) == len(p)
    for rows in found["reliability"].values():
        assert sum(row["n"] for row in rows) == len(p)
    weighted = sum(row["n"] * row["mae"]["value"] for row in found["kinds"].values())
    np.testing.assert_allclose(weighted, len(p) * grading["mae"]["value"])
