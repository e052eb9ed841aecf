"""The cached baseline's counts: when they are seen, which of them stay, and their state."""

import json

import numpy as np

from tracelift_jax.train.baseline import VISIBLE_AFTER, BaselineCounts


def seen(counts, step, ids=("a", "b")):
    ok, trials = counts.lookup(ids, step)
    assert ok.dtype == trials.dtype == np.int32
    return list(zip(ok.tolist(), trials.tolist(), strict=True))


def test_counts_are_seen_a_fixed_number_of_steps_after_they_were_measured():
    counts = BaselineCounts()
    counts.add(["a"], np.array([3]), np.array([8]), step=5)
    for step in range(5, 5 + VISIBLE_AFTER):
        assert seen(counts, step) == [(0, 0), (0, 0)]
    assert seen(counts, 5 + VISIBLE_AFTER) == [(3, 8), (0, 0)]
    assert seen(counts, 99, ["b", "a", "a"]) == [(0, 0), (3, 8), (3, 8)]


def test_two_steps_are_enough_for_counts_that_reach_the_host_one_step_late():
    # Step n's counts are added while step n + 1 runs, when n + 2 was not drawn yet: neither too late nor too early.
    assert VISIBLE_AFTER == 2


def test_the_first_measurement_stays():
    counts = BaselineCounts()
    counts.add(["a", "b"], np.array([3, 0]), np.array([8, 8]), step=1)
    counts.add(["a", "b"], np.array([7, 7]), np.array([8, 8]), step=2)
    assert seen(counts, 9) == [(3, 8), (0, 8)]
    assert len(counts) == 2


def test_a_measurement_without_verdicts_is_none():
    counts = BaselineCounts()
    counts.add(["a"], np.array([0]), np.array([0]), step=1)
    assert len(counts) == 0
    counts.add(["a"], np.array([1]), np.array([2]), step=2)
    assert seen(counts, 9) == [(1, 2), (0, 0)]


def test_state_survives_json():
    counts, restored = BaselineCounts(), BaselineCounts()
    counts.add(["a", "b"], np.array([3, 1]), np.array([8, 4]), step=6)
    restored.set_state(json.loads(json.dumps(counts.get_state())))
    for step in (6, 7, 8):
        assert seen(restored, step) == seen(counts, step)
    assert restored.get_state() == counts.get_state()
    restored.add(["a"], np.array([0]), np.array([8]), step=7)  # what was known stays known
    assert seen(restored, 9) == [(3, 8), (1, 4)]
