import dataclasses
import json
import threading

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracelift_jax.errors import UserError
from tracelift_jax.tasks.problem import Problem
from tracelift_jax.train.data import drawing_stream, eval_batches, problem_stream

PROBLEMS = [Problem(f"p/{i}", "x" * i, str(i)) for i in range(23)]


def encode(row, problem):
    return {"index": np.int64(row), "shape": np.array([len(problem.text), row], np.int32)}


def encode_some(row, problem):
    return None if row % 3 == 1 else encode(row, problem)


def stream(encode=encode, batch_size=4, seed=0, problems=PROBLEMS, **options):
    return problem_stream(problems, batch_size=batch_size, seed=seed, encode=encode, **options)


def take(batches, count):
    return [next(batches) for _ in range(count)]


def rows(batches):
    return [int(row) for batch in batches for row in batch["index"]]


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_batches_are_stacked_arrays():
    (batch,) = take(stream(shuffle=False), 1)
    assert batch["index"].tolist() == [0, 1, 2, 3]
    assert batch["index"].dtype == np.int64
    assert batch["shape"].dtype == np.int32
    assert batch["shape"].tolist() == [[0, 0], [1, 1], [2, 2], [3, 3]]


def test_every_epoch_holds_each_problem_once_in_an_order_of_its_own():
    seen = rows(take(stream(batch_size=23), 3))
    epochs = [seen[:23], seen[23:46], seen[46:]]
    assert all(sorted(epoch) == list(range(23)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    assert list(range(23)) not in epochs


def test_the_order_is_the_one_it_has_always_been():
    """Runs of before are to go on as they would have."""
    first = [7, 9, 0, 8, 14, 20, 17, 6, 10, 22, 3, 19, 5, 2, 4, 16, 21, 18, 11, 12, 15, 13, 1]
    second = [6, 12, 20, 13, 17, 14, 22, 19, 8, 3, 5, 0, 11, 2, 9, 1, 21, 16, 10, 18, 4, 7, 15]
    assert rows(take(stream(batch_size=23, seed=7), 2)) == first + second


def test_batches_run_across_epochs():
    seen = rows(take(stream(), 23))  # 92 problems = 4 epochs of 23, none of them a multiple of 4
    assert np.bincount(seen).tolist() == [4] * 23


def test_the_seed_decides_the_order():
    assert rows(take(stream(seed=1), 10)) == rows(take(stream(seed=1), 10))
    assert rows(take(stream(seed=1), 10)) != rows(take(stream(seed=2), 10))
    assert rows(take(stream(seed=2**32 - 1), 1))


def test_without_shuffle_the_order_is_kept():
    assert rows(take(stream(shuffle=False), 8)) == [i % 23 for i in range(32)]


def test_epochs_end_and_the_rest_is_not_used():
    batches = list(stream(num_epochs=2))  # 46 problems
    assert len(batches) == 11
    assert all(batch["index"].shape == (4,) for batch in batches)
    assert list(stream(num_epochs=1, batch_size=24)) == []


@settings(max_examples=25, deadline=None)
@given(
    before=st.integers(0, 12),
    seed=st.integers(0, 2**32 - 1),
    batch_size=st.integers(1, 9),
    some=st.booleans(),
    shuffle=st.booleans(),
)
def test_a_resumed_stream_goes_on_exactly(before, seed, batch_size, some, shuffle):
    options = {
        "seed": seed,
        "batch_size": batch_size,
        "encode": encode_some if some else encode,
        "shuffle": shuffle,
    }
    first = stream(**options)
    take(first, before)
    state = json.loads(json.dumps(first.get_state()))
    expected = take(first, 5)

    second = stream(**options)
    second.set_state(state)
    assert second.get_state() == state
    same(take(second, 5), expected)
    assert second.get_state() == first.get_state()


def test_going_back_on_a_used_stream():
    batches = stream(encode_some)
    take(batches, 3)
    state = batches.get_state()
    expected = take(batches, 20)
    batches.set_state(state)
    same(take(batches, 20), expected)


def test_problems_that_do_not_fit_are_left_out_and_counted():
    batches = stream(encode_some)
    assert batches.left_out(0) == (0, 0)
    seen = rows(take(batches, 45))  # of each epoch 15 fit and 1, 4, ..., 22 do not: 180 are twelve epochs
    assert set(seen) == {i for i in range(23) if i % 3 != 1}
    left_out, drawn = batches.left_out(45)
    assert left_out + 45 * 4 == drawn
    # Those behind the last one taken do not count yet.
    assert 12 * 23 - 8 <= drawn <= 12 * 23


def test_what_is_left_out_is_counted_in_order():
    batches = stream(encode_some, shuffle=False)  # 0 2 3 5 | 6 8 9 11 | 12 14 15 17 | 18 20 21 0
    counts = []
    for number in range(1, 5):
        take(batches, 1)
        counts.append(batches.left_out(number))
    assert counts == [(2, 6), (4, 12), (6, 18), (8, 24)]
    state = json.loads(json.dumps(batches.get_state()))
    again = stream(encode_some, shuffle=False)
    again.set_state(state)
    take(again, 1)  # 2 3 5 6
    assert again.left_out(5) == (10, 30)


def test_no_problem_at_all():
    with pytest.raises(UserError, match="no problems"):
        stream(problems=[])


def test_no_problem_that_fits_ends_the_search():
    with pytest.raises(UserError, match="not one of the 23 training problems fits"):
        next(stream(lambda row, problem: None))


def test_an_error_in_encode_comes_out():
    def broken(row, problem):
        raise RuntimeError(f"row {row}")

    with pytest.raises(RuntimeError, match="row 0"):
        next(stream(broken, shuffle=False))


def test_one_thread_encodes():
    threads = set()

    def encode_here(row, problem):
        threads.add(threading.get_ident())
        return encode(row, problem)

    take(stream(encode_here), 10)
    assert len(threads) == 1


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    tokens: np.ndarray
    more: dict[str, np.ndarray]


def test_dataclass_trees_are_stacked_leaf_by_leaf():
    def encode_tree(row, problem):
        return Batch(tokens=np.full(3, row), more={"valid": np.arange(3) < row})

    (batch,) = take(stream(encode_tree, shuffle=False, batch_size=2), 1)
    (evaluated,) = [batch for batch, _, _ in eval_batches(PROBLEMS, encode_tree, 2, limit=2)]
    for b in (batch, evaluated):
        assert isinstance(b, Batch)
        assert b.tokens.tolist() == [[0, 0, 0], [1, 1, 1]]
        assert b.more["valid"].tolist() == [[False] * 3, [True, False, False]]


def test_shapes_that_differ_are_an_error():
    with pytest.raises(ValueError, match="same structure"):
        next(stream(lambda row, problem: {"a": np.zeros(row)}, shuffle=False))


def draw(row, problem, rng):
    return None if row % 3 == 1 else {"index": np.int64(row), "drawn": rng.integers(2**62)}


def draws(seed=0, batch_size=4):
    return drawing_stream(PROBLEMS, batch_size=batch_size, seed=seed, encode=draw)


def test_a_drawing_stream_has_the_order_of_the_other():
    for seed in (0, 1, 2**32 - 1):
        assert rows(take(draws(seed), 10)) == rows(take(stream(encode_some, seed=seed), 10))


def test_draws_depend_on_seed_and_position_alone():
    drawn = [int(x) for batch in take(draws(), 40) for x in batch["drawn"]]
    assert len(set(drawn)) == 160  # none comes again, in this epoch or another
    assert drawn == [int(x) for batch in take(draws(batch_size=8), 20) for x in batch["drawn"]]
    assert not set(drawn) & {int(x) for batch in take(draws(seed=1), 40) for x in batch["drawn"]}


@settings(max_examples=15, deadline=None)
@given(before=st.integers(0, 12), seed=st.integers(0, 2**32 - 1), batch_size=st.integers(1, 9))
def test_a_resumed_stream_draws_the_same(before, seed, batch_size):
    first = draws(seed, batch_size)
    take(first, before)
    state = json.loads(json.dumps(first.get_state()))
    expected = take(first, 5)
    second = draws(seed, batch_size)
    second.set_state(state)
    same(take(second, 5), expected)


def test_a_drawing_stream_drops_and_fails_like_the_other():
    batches = draws()
    take(batches, 45)
    left_out, drawn = batches.left_out(45)
    assert left_out + 180 == drawn and 12 * 23 - 8 <= drawn <= 12 * 23
    with pytest.raises(UserError, match="no problems"):
        drawing_stream([], batch_size=1, seed=0, encode=draw)
    with pytest.raises(UserError, match="not one of the 23 training problems fits"):
        next(drawing_stream(PROBLEMS, batch_size=1, seed=0, encode=lambda row, problem, rng: None))


def test_eval_batches_in_order_with_the_last_one_padded():
    (a, a_rows, a_real), (b, b_rows, b_real) = eval_batches(PROBLEMS, encode, 4, limit=6)
    assert a["index"].tolist() == a_rows.tolist() == [0, 1, 2, 3]
    assert b["index"].tolist() == b_rows.tolist() == [4, 5, 5, 5]
    assert a_real.tolist() == [True] * 4
    assert b_real.tolist() == [True, True, False, False]
    assert (b_real.dtype, b_rows.dtype) == (bool, np.int64)


@pytest.mark.parametrize(("limit", "count"), [(None, 23), (100, 23), (23, 23), (8, 8), (0, 0)])
def test_eval_batches_cover_each_problem_once(limit, count):
    found = list(eval_batches(PROBLEMS, encode, 4, limit))
    assert [int(row) for _, index, real in found for row in index[real]] == list(range(count))
    assert len(found) == -(-count // 4)  # no batch of padding alone


def test_eval_batches_leave_out_what_does_not_fit():
    found = list(eval_batches(PROBLEMS, encode_some, 4, limit=10))
    assert [int(row) for _, index, real in found for row in index[real]] == [0, 2, 3, 5, 6, 8, 9]
    assert 10 - sum(int(real.sum()) for _, _, real in found) == 3
    assert list(eval_batches(PROBLEMS, lambda row, problem: None, 4)) == []
