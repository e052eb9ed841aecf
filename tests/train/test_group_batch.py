"""Which traces of a group are read, how they are drawn, and how a text that is too long is cut."""

import collections
import dataclasses
import json
from functools import partial
from typing import get_args

import jax
import numpy as np
import pytest
from tiny import TASK, TOKENIZER

from tracelift_jax.groups.schema import Group, Rubric, Trace
from tracelift_jax.groups.source import DialGroups
from tracelift_jax.text.prompts import Frame, Pieces, Prompts
from tracelift_jax.text.spans import Tokens
from tracelift_jax.text.tokenizer import Tokenizer
from tracelift_jax.train.data import drawing_stream, eval_batches
from tracelift_jax.train.group_batch import TooLong, encode_group, members

P, T = 40, 20


@pytest.fixture(scope="module")
def pieces() -> Pieces:
    frame = Frame("Type {task_type}.\n", " End of the problem.\n")
    return Pieces(Prompts(reward_model=frame), Tokenizer.load(TOKENIZER))


def make_group(row: int, positives: int, negatives: int, reasoning: str = "1 + 2 = 3") -> Group:
    """A group whose totals tell its traces: 1.0, 0.99, ... for positives, 0.01, 0.02, ... for negatives."""
    return Group(
        problem_id=f"g/{row}",
        source="",
        task_type="t",
        problem="Ann adds 2.",
        reference_solution="3",
        positives=tuple(Trace(reasoning, Rubric((4, 4, 4, 4, 4), 1 - i / 100)) for i in range(positives)),
        negatives=tuple(Trace(reasoning, Rubric((i % 5, 0, 0, 0, 0), (i + 1) / 100), "flaw") for i in range(negatives)),
    )


GROUPS = [make_group(row, positives=3, negatives=7) for row in range(6)]


def totals(batch) -> list[list[int]]:
    return np.rint(100 * np.asarray(batch.totals)).astype(int).tolist()


def text(pieces: Pieces, tokens: Tokens) -> str:
    return pieces.tokenizer.decode(np.asarray(tokens.ids)[np.asarray(tokens.valid)])


# --------------------------------------------------------------------------------------------------------- the draws


def test_without_a_generator_the_first_are_taken():
    group = make_group(0, 2, 3)  # indices 0 and 1 are positives, 2 to 4 negatives
    assert list(members(group, None, None)) == [0, 2, 3, 4]
    assert list(members(group, 2, None)) == [0, 2, 3]
    assert list(members(group, 5, None)) == [0, 2, 3, 4, 2, 3]


@pytest.mark.parametrize(("negatives", "there"), [(4, 7), (4, 4), (4, 2), (1, 1), (3, 9)])
def test_draws(negatives, there):
    rng = np.random.default_rng(0)
    group = make_group(0, 3, there)
    drawn = [members(group, negatives, rng) for _ in range(600)]
    assert all(len(row) == negatives + 1 for row in drawn)
    assert {row[0] for row in drawn} == {0, 1, 2}
    assert {i for row in drawn for i in row[1:]} == set(range(3, 3 + there))
    if there >= negatives:
        assert all(len(set(row[1:])) == negatives for row in drawn)
    # Each is drawn about as often as any other: 600 draws of a share q have a standard deviation under 13.
    for slot, q in ((slice(0, 1), 1 / 3), (slice(1, 2), 1 / there)):
        counts = collections.Counter(i for row in drawn for i in row[slot])
        assert all(abs(count - 600 * q) < 60 for count in counts.values())


def test_arrays_are_those_of_the_drawn_traces(pieces):
    texts = [f"{i} + {i} = {2 * i}" for i in range(5)]
    group = make_group(0, 2, 3)
    traces = [
        dataclasses.replace(trace, reasoning=word)
        for trace, word in zip((*group.positives, *group.negatives), texts, strict=True)
    ]
    group = dataclasses.replace(group, positives=tuple(traces[:2]), negatives=tuple(traces[2:]))
    seen = set()
    for seed in range(20):
        batch = encode_group(pieces, P, T, 0, group, np.random.default_rng(seed), negatives=2)
        chosen = members(group, 2, np.random.default_rng(seed))
        seen.add(tuple(chosen))
        for slot, i in enumerate(chosen):
            trace = Tokens(batch.traces.ids[slot], batch.traces.valid[slot])
            assert text(pieces, trace) == f"<reasoning> {texts[i]} </reasoning>"
            assert batch.labels[slot].tolist() == list(traces[i].rubric.dimensions)
            assert batch.totals[slot] == np.float32(traces[i].rubric.total)
    assert len(seen) > 6


def test_the_frame_knows_the_task(pieces):
    framed = Pieces(Prompts(reward_model=Frame("{task_name} {task_type}\n")), pieces.tokenizer)
    group = make_group(0, 1, 1)
    for name in ("math", "code"):
        batch = encode_group(framed, P, T, 0, dataclasses.replace(group, rubric_name=name))
        assert text(pieces, batch.problem) == f"{name} t\nAnn adds 2.\n"


@pytest.mark.parametrize("too_long", get_args(TooLong))
def test_the_frame_knows_the_tests_and_no_white_space_counts(pieces, too_long):
    tested = Pieces(Prompts(reward_model=Frame("", "\n", "Tests: {tests}\n")), pieces.tokenizer)
    plain, group = make_group(0, 1, 1, "1 + 2 = 3"), make_group(0, 1, 1, "\n1 + 2 = 3 ")
    group = dataclasses.replace(group, problem=f" {group.problem}\n", tests="f(1) == 3\n")
    for prompts, shown in (
        (tested, "Ann adds 2.\nTests: f(1) == 3\n"),
        (pieces, "Type t.\nAnn adds 2. End of the problem.\n"),
    ):
        batch = encode_group(prompts, P, T, 0, group, too_long=too_long)
        assert text(pieces, batch.problem) == shown
        same = encode_group(prompts, P, T, 0, dataclasses.replace(plain, tests="f(1) == 3"), too_long=too_long)
        jax.tree.map(np.testing.assert_array_equal, batch, same)
    assert text(pieces, encode_group(tested, P, T, 0, plain, too_long=too_long).problem) == "Ann adds 2.\n"


def stream(pieces, groups=GROUPS, seed=0, batch_size=4, negatives=4):
    encode = partial(encode_group, pieces, P, T, negatives=negatives)
    return drawing_stream(groups, batch_size=batch_size, seed=seed, encode=encode)


def test_every_epoch_draws_others(pieces):
    batches = stream(pieces, [GROUPS[0]], batch_size=1)
    drawn = [totals(next(batches))[0] for _ in range(40)]
    assert all(len(set(row[1:])) == 4 for row in drawn)
    assert len({tuple(sorted(row[1:])) for row in drawn}) > 15  # of 35
    assert {row[0] for row in drawn} == {98, 99, 100}


def test_the_seed_and_the_position_decide(pieces):
    def take(seed):
        batches = stream(pieces, seed=seed)
        return [totals(next(batches)) for _ in range(6)]

    assert take(1) == take(1) != take(2)


@pytest.mark.parametrize("before", [0, 1, 4, 7])  # an epoch is one batch and a half
def test_a_resumed_stream_draws_the_same(pieces, before):
    first = stream(pieces)
    for _ in range(before):
        next(first)
    state = json.loads(json.dumps(first.get_state()))
    expected = [next(first) for _ in range(5)]
    second = stream(pieces)
    second.set_state(state)
    for batch in expected:
        jax.tree.map(np.testing.assert_array_equal, next(second), batch)


def test_four_dial_negatives_are_permuted_and_nothing_else(pieces):
    groups = DialGroups(TASK).groups("train")[:1]
    plain = Pieces(Prompts(), pieces.tokenizer)
    encode = partial(encode_group, plain, 30, 32, negatives=4)
    batches = drawing_stream(groups, batch_size=1, seed=0, encode=encode)
    everything = encode_group(plain, 30, 32, 0, groups[0])

    def rows(traces, labels):
        return sorted((*ids.tolist(), *label.tolist()) for ids, label in zip(traces.ids, labels, strict=True))

    for _ in range(5):
        batch = jax.tree.map(lambda x: x[0], next(batches))
        np.testing.assert_array_equal(batch.traces.ids[0], everything.traces.ids[0])
        assert rows(batch.traces, batch.labels) == rows(everything.traces, everything.labels)


def test_groups_without_a_negative_or_a_positive_are_left_out(pieces):
    groups = [make_group(0, 1, 0), make_group(1, 1, 4), make_group(2, 0, 4)]
    batches = stream(pieces, groups, batch_size=2)
    for _ in range(3):
        assert [row[0] for row in totals(next(batches))] == [100, 100]
    left_out, drawn = batches.left_out(3)  # six times the one group that fits
    assert left_out + 6 == drawn and 10 <= left_out <= 14
    encode = partial(encode_group, pieces, P, T, negatives=4)
    [(batch, rows, real)] = eval_batches(groups, encode, 1)
    assert rows.tolist() == [1] and real.all()
    assert totals(batch) == [[100, 1, 2, 3, 4]]


def test_a_trace_that_is_not_drawn_leaves_the_group_out_too(pieces):
    group = make_group(0, 1, 5)
    long = dataclasses.replace(group.negatives[4], reasoning="1 + 2 = 3 ; " * 10)
    group = dataclasses.replace(group, negatives=(*group.negatives[:4], long))
    for rng in (None, *map(np.random.default_rng, range(10))):
        assert encode_group(pieces, P, T, 0, group, rng, negatives=1) is None


# ------------------------------------------------------------------------------------------------- what is too long


def encoded(pieces, group, prompt_tokens, trace_tokens, too_long):
    return encode_group(pieces, prompt_tokens, trace_tokens, 0, group, negatives=1, too_long=too_long)


def test_the_problem_is_cut_and_nothing_behind_it(pieces):
    group = make_group(0, 1, 1)
    frame, whole = ("Type t.\n", " End of the problem.\n"), len(pieces.tokenizer.encode("Ann adds 2."))
    length = len(pieces.tokenizer.encode("Ann adds 2.".join(frame)))
    trace = len(pieces.tokenizer.encode("<reasoning> 1 + 2 = 3 </reasoning>"))
    shown = {}
    for room in range(length + 2, length - whole - 3, -1):
        batch = encoded(pieces, group, room, trace, "cut_problem")
        if batch is None:
            continue
        assert batch.problem.ids.shape == (room,) and batch.traces.ids.shape == (2, trace)
        before, after = (text(pieces, batch.problem).partition(word)[i] for word, i in ((frame[1], 0), (frame[0], 2)))
        assert before.startswith(frame[0]) and after.endswith(frame[1])  # the frame is whole
        shown[room] = before.removeprefix(frame[0])
        for row in range(2):
            kept = Tokens(batch.traces.ids[row], batch.traces.valid[row])
            assert text(pieces, kept) == "<reasoning> 1 + 2 = 3 </reasoning>"
    assert shown[length] == shown[length + 1] == "Ann adds 2."
    cut = [shown[room] for room in sorted(shown)]
    assert all("Ann adds 2.".startswith(part) for part in cut)
    assert cut == sorted(cut, key=len)  # more room, more of the problem
    assert cut[0] == "" and len(set(cut)) > 3
    assert encoded(pieces, group, min(shown) - 1, trace, "cut_problem") is None  # the frame alone does not fit
    assert encoded(pieces, group, length, trace - 1, "cut_problem") is None  # a trace is never cut
    assert encoded(pieces, group, length - 1, trace, "leave_out") is None


def test_tests_are_cut_before_the_problem(pieces):
    tested = Pieces(Prompts(reward_model=Frame("", "\n", "Tests: {tests}\n")), pieces.tokenizer)
    group = dataclasses.replace(make_group(0, 1, 1), tests="f(1) == 3, f(2) == 4")
    bare, whole = "Ann adds 2.\n", "Ann adds 2.\nTests: f(1) == 3, f(2) == 4\n"
    length = len(pieces.tokenizer.encode(whole))
    shown = []
    for room in range(length, len(pieces.tokenizer.encode(bare)) - 2, -1):
        batch = encoded(tested, group, room, T, "cut_problem")
        shown.append(text(pieces, batch.problem))
    assert shown[0] == whole and bare in shown
    for left in shown[: shown.index(bare)]:
        assert left.startswith(f"{bare}Tests: f") and left.endswith("\n") and left[:-1] in whole
    for left in shown[shown.index(bare) + shown.count(bare) :]:
        assert left.endswith("\n") and left[:-1] in "Ann adds 2." and len(left) < len(bare)
    assert len(set(shown)) > 5


def flat(pieces, group, trace) -> list[int]:
    """The text of one trace as one sequence of tokens."""
    encode = pieces.tokenizer.encode
    statement = f"Type {group.task_type}.\n{group.problem} End of the problem.\n"
    return [*pieces.tokenizer.begin, *encode(statement), *encode("<reasoning>"), *encode(f" {trace} </reasoning>")]


def test_the_reference_cuts_the_whole_on_the_right(pieces):
    group = make_group(0, 1, 1)
    group = dataclasses.replace(
        group, negatives=(dataclasses.replace(group.negatives[0], reasoning="1 + 2 = 4 ; 4 * 2 = 8"),)
    )
    longest = len(flat(pieces, group, group.negatives[0].reasoning))
    for prompt_tokens in (1, 5, 12, 20, 40):
        for trace_tokens in (2, 6, 15, longest):
            batch = encoded(pieces, group, prompt_tokens, trace_tokens, "reference")
            room = prompt_tokens + trace_tokens
            assert batch.problem.ids.shape == (prompt_tokens,) and batch.traces.ids.shape == (2, room)
            for row, trace in enumerate((group.positives[0], group.negatives[0])):
                read = [
                    *batch.problem.ids[batch.problem.valid].tolist(),
                    *batch.traces.ids[row][batch.traces.valid[row]].tolist(),
                ]
                assert read == flat(pieces, group, trace.reasoning)[:room]


def test_what_fits_is_the_same_whatever_is_done_with_the_rest(pieces):
    group = make_group(0, 1, 1)
    left, cut, reference = (encoded(pieces, group, P, T, way) for way in ("leave_out", "cut_problem", "reference"))
    jax.tree.map(np.testing.assert_array_equal, left, cut)
    jax.tree.map(np.testing.assert_array_equal, left.problem, reference.problem)
    np.testing.assert_array_equal(left.traces.ids, reference.traces.ids[:, :T])
    np.testing.assert_array_equal(left.traces.valid, reference.traces.valid[:, :T])
    assert reference.traces.ids.shape == (2, P + T) and not reference.traces.valid[:, T:].any()
