"""First wrong steps: ProcessBench's numbers by hand, its files, and real grades of prefixes."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.dial_solutions import solutions
from tracelift_jax.config import ProcessBench
from tracelift_jax.errors import UserError
from tracelift_jax.groups.source import DialGroups
from tracelift_jax.tasks.dial import DialTask
from tracelift_jax.train import process_bench

NAN = np.nan
SCORES = np.array([[0.9, 0.8, 0.7], [0.9, 0.3, 0.2], [0.2, 0.9, NAN], [0.6, NAN, NAN], [0.5, 0.4, NAN]])


def test_the_first_step_below():
    assert process_bench.first_below(SCORES, 0.5).tolist() == [-1, 1, 0, -1, 1]
    assert process_bench.first_below(SCORES, 0.0).tolist() == [-1] * 5
    assert process_bench.first_below(SCORES, 1.0).tolist() == [0] * 5


def test_f1_by_hand():
    labels = np.array([-1, 1, 0, 0, -1])
    # predicted -1 1 0 -1 1: wrong solutions 2 of 3, right ones 1 of 2
    predicted = process_bench.first_below(SCORES, 0.5)
    np.testing.assert_allclose(process_bench.f1(predicted, labels), 2 * (2 / 3) * (1 / 2) / (2 / 3 + 1 / 2))
    assert process_bench.f1(np.array([-1, -1]), np.array([-1, 2])) == 0  # saying "right" always
    assert process_bench.f1(np.array([0, 0]), np.array([-1, 1])) == 0  # no hit at all
    assert process_bench.f1(np.array([1]), np.array([1])) == 0  # no right solution to be right on
    assert process_bench.f1(np.array([-1]), np.array([-1])) == 0


def test_the_threshold_by_hand():
    labels = np.array([-1, 1, 0, 0, -1])
    # Thresholds above 0.4 and up to 0.5 predict -1 1 0 -1 1; above 0.3 and up to 0.4: -1 1 0 -1 -1, F1 of 2/3 and 1.
    # Above 0.6 and up to 0.7 would be -1 1 0 0 0: 1 and 1/2. The best is 2 * 2/3 / (5/3) = 0.8, at 0.4.
    assert process_bench.choose_threshold(SCORES, labels) == 0.4
    found = process_bench.judge_steps(
        np.concatenate([SCORES, [[0.39, NAN, NAN], [0.5, 0.3, NAN], [0.4, 0.41, NAN], [0.1, NAN, NAN]]]),
        np.concatenate([labels, [0, 0, -1, -1]]),
        np.arange(9) < 5,
    )
    assert found["threshold"] == 0.4
    np.testing.assert_allclose(found["f1_choosing"], 0.8)
    # the other half: wrong ones at 0 (hit) and 1 (not), right ones: hit, not
    assert (found["wrong"]["value"], found["wrong"]["n"]) == (0.5, 2)
    assert (found["right"]["value"], found["right"]["n"]) == (0.5, 2)
    assert found["f1"] == 0.5


@given(st.integers(0, 2**32 - 1))
def test_no_threshold_is_better(seed):
    rng = np.random.default_rng(seed)
    scores = np.where(rng.random((9, 4)) < 0.2, NAN, rng.integers(0, 6, (9, 4)) / 5)
    scores[:, 0] = rng.integers(0, 6, 9) / 5
    labels = rng.integers(-1, 4, 9)
    best = process_bench.f1(process_bench.first_below(scores, process_bench.choose_threshold(scores, labels)), labels)
    for threshold in np.linspace(-0.05, 1.05, 23):
        predicted = [next((s for s in range(4) if row[s] < threshold), -1) for row in scores]
        wrong = [p == label for p, label in zip(predicted, labels, strict=True) if label >= 0]
        right = [p == label for p, label in zip(predicted, labels, strict=True) if label < 0]
        if wrong and right and any(wrong + right):
            a, b = sum(wrong) / len(wrong), sum(right) / len(right)
            assert 2 * a * b / (a + b) <= best + 1e-12


def test_halves_depend_on_the_ids_alone():
    ids = [f"gsm8k-{i}" for i in range(101)]
    chosen = process_bench.halves(ids)
    assert chosen.sum() == 51
    assert 35 < chosen[:70].sum() + 8 < 51  # spread, not the first half
    other = process_bench.halves(ids[::-1])
    assert (other == chosen[::-1]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": 3}, '"id" must be there and be a str'),
        ({"problem": None}, '"problem" must be'),
        ({"steps": "a"}, '"steps" must be there and be a list'),
        ({"steps": []}, '"steps" must be one text or more'),
        ({"steps": ["a", 2]}, '"steps" must be one text or more'),
        ({"label": True}, '"label" must be there and be a int'),
        ({"label": 2}, '"label" must be from -1 to 1, got 2'),
        ({"label": -2}, '"label" must be from -1 to 1, got -2'),
    ],
)
def test_wrong_files_are_named(tmp_path, change, message):
    good = {"id": "a", "problem": "p", "steps": ["x", "y"], "label": 1, "generator": "ignored"}
    file = tmp_path / "bench.jsonl"
    file.write_text(json.dumps(good) + "\n\n" + json.dumps(good | change) + "\n")
    with pytest.raises(UserError) as error:
        process_bench.read_solutions(str(file))
    assert str(error.value).startswith(f"{file}:3: ")
    assert message in str(error.value)
    file.write_text(json.dumps(good) + "\n")
    assert process_bench.read_solutions(str(file)) == [process_bench.Solution("a", "p", ("x", "y"), 1)]


def test_a_path_is_needed():
    with pytest.raises(UserError, match=r"ProcessBench\.path must not be empty"):
        ProcessBench("")


def test_dial_solutions_have_their_first_wrong_step():
    found = list(solutions(DialGroups(DialTask(min_ops=3)).groups("test"), 60))
    assert [row["label"] >= 0 for row in found] == [False, True] * 30
    assert {row["label"] for row in found} >= {-1, 0, 1, 2}
    for row in found:
        # every step before the label follows from the one before and is calculated rightly
        for i in range(row["label"] if row["label"] >= 0 else len(row["steps"])):
            left, symbol, operand, _, result = row["steps"][i].split()
            assert eval(f"({left} {symbol} {operand}) % 10") == int(result)
            assert i == 0 or left == row["steps"][i - 1][-1]
