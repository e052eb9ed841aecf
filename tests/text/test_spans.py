"""Tags and stop strings over tokens against searches in bytes, however the text is cut into tokens."""

import re
from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracelift_jax.text import spans
from tracelift_jax.text.spans import EMPTY, GOOD, Tokens, pad, search, splice
from tracelift_jax.text.tokenizer import TokenBytes

OPEN, CLOSE = "<reasoning>", "</reasoning>"


def table_of(pieces) -> TokenBytes:
    """A token table with these bytes; empty pieces are control tokens."""
    data = np.zeros((len(pieces), max(map(len, pieces), default=0) or 1), np.uint8)
    for row, piece in enumerate(pieces):
        data[row, : len(piece)] = np.frombuffer(piece, np.uint8)
    return TokenBytes(data, np.array([len(p) for p in pieces], np.int32))


def walk(automaton, tokens) -> list[int]:
    """States after each token, one look-up at a time."""
    states, state = [], 0
    for token in tokens:
        state = int(np.asarray(automaton.next)[state, token])
        states.append(state)
    return states


# ---------------------------------------------------------------------------------------------------- stop strings

letters = st.sampled_from([b"a", b"b", b"\xc3", b"\xa4"])
bytes_ = st.lists(letters, max_size=6).map(b"".join)


@st.composite
def tokenized(draw, text):
    """Random tables of pieces of two or four letters, and a random sequence of them."""
    pieces = draw(st.lists(text, min_size=1, max_size=8))
    return pieces, draw(st.lists(st.integers(0, len(pieces) - 1), max_size=20))


@given(tokenized(bytes_), st.lists(st.text("abä", min_size=1, max_size=5), max_size=3))
@settings(max_examples=400)
def test_search_is_find(case, patterns):
    """Accepting from the first token on with which any pattern is complete; several patterns, control tokens."""
    pieces, tokens = case
    automaton = search(table_of(pieces), patterns)
    read = b""
    for token, state in zip(tokens, walk(automaton, tokens), strict=True):
        read += pieces[token]
        assert bool(automaton.accepting[state]) == any(read.find(p.encode()) >= 0 for p in patterns)


@given(st.lists(letters, max_size=30).map(b"".join), st.text("abä", min_size=1, max_size=4), st.data())
@settings(max_examples=200)
def test_how_text_is_cut_does_not_matter(text, pattern, data):
    """The same bytes, cut twice at random, end in the same state."""

    def cut():
        at = sorted(data.draw(st.sets(st.integers(0, len(text)))) | {0, len(text)})
        return [text[i:j] for i, j in pairwise(at)]

    ends = []
    for pieces in (cut(), cut()):
        states = walk(search(table_of(pieces or [b""]), [pattern]), range(len(pieces)))
        ends.append(states[-1] if states else 0)
    assert ends[0] == ends[1]


def test_patterns_that_overlap_inside_a_token():
    """Fall-back to the longest prefix: "aabaaab" holds "aaab" though "aab" was begun; one token may hold it all."""
    pieces = [b"aabaa", b"ab", b"xaaabx", b"a", b"b"]
    automaton = search(table_of(pieces), ["aaab"])
    assert bool(automaton.accepting[walk(automaton, [0, 1])[-1]])
    assert bool(automaton.accepting[walk(automaton, [2])[-1]])
    assert not automaton.accepting[walk(automaton, [3, 3, 4, 3, 3, 4])].any()
    several = search(table_of(pieces), ["baab", "abaa"])  # each ends inside the other
    assert several.accepting[walk(several, [0])].tolist() == [True]
    assert several.accepting[walk(several, [3, 4, 3, 4, 3, 3])].tolist() == [False] * 5 + [True]


def test_no_pattern_never_accepts_and_an_empty_one_is_refused():
    automaton = search(table_of([b"a", b""]), [])
    assert automaton.next.shape == (1, 2) and not automaton.accepting.any()
    with pytest.raises(ValueError, match="must not be empty"):
        search(table_of([b"a"]), ["a", ""])


def test_run_is_the_walk_and_skips_holes():
    rng = np.random.default_rng(0)
    automaton = search(table_of([b"a", b"b", b"ab", b""]), ["aab", "bb"])
    tokens, valid = rng.integers(0, 4, (3, 5, 12)), rng.random((3, 5, 12)) < 0.7
    states = np.asarray(automaton.run(jnp.asarray(tokens), jnp.asarray(valid)))
    for row in np.ndindex(3, 5):
        expected, state = [], 0
        for token, real in zip(tokens[row], valid[row], strict=True):
            state = int(automaton.next[state, token]) if real else state
            expected.append(state)
        assert states[row].tolist() == expected
    assert automaton.accepting[states].any()


# ---------------------------------------------------------------------------------------------------------- bodies


def judge(read: bytes) -> int:
    """The twin: the text before the first closing tag holds something, and no opening tag."""
    match = re.match(rb"(.*?)</reasoning>", read, re.DOTALL)
    if not match:
        return 0
    body = match.group(1)
    return GOOD if re.search(rb"\S", body) and not re.search(rb"<reasoning>", body) else EMPTY


WORDS = (
    "<reasoning> </reasoning> <reasoning </reasoning reason ing> x r < </ / > 7+5=2 <</reasoning> <reason</reasoning>"
)
snippets = st.sampled_from([*WORDS.encode().split(), b" ", b"\n", b"\t", b"\x0b", b"\xc2\xa0"])

STEP, CLOSED, JUDGEMENT = spans.body_bytes(CLOSE.encode(), OPEN.encode())  # slow in Python: once


@given(st.lists(snippets, max_size=12).map(b"".join), st.data())
@settings(max_examples=500)
def test_body_judgement_is_the_twins(text, data):
    at = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=12)) | {0, len(text)})
    pieces = [text[i:j] for i, j in pairwise(at)] or [b""]
    automaton = spans.lift(table_of(pieces), STEP, CLOSED)
    read = b""
    for token, state in enumerate(walk(automaton, range(len(pieces)))):
        read += pieces[token]
        assert JUDGEMENT[state] == judge(read)
        assert bool(CLOSED[state]) == (judge(read) != 0)


@pytest.mark.parametrize(
    ("text", "judgement"),
    [
        ("7 + 5 = 2", 0),
        ("7 + 5 = 2</reasoning>", GOOD),
        ("7 + 5 = 2 </reasoning> and <reasoning>", GOOD),  # what follows counts for nothing
        ("</reasoning>", EMPTY),
        (" \n\t</reasoning>", EMPTY),
        (" \n\t</reasoning>x</reasoning>", EMPTY),
        ("x<reasoning>y</reasoning>", EMPTY),
        ("x<reasoning></reasoning>", EMPTY),
        ("<</reasoning>", GOOD),  # a begun tag is text
        ("</reasoning</reasoning>", GOOD),
        ("x<reasoning </reasoning>", GOOD),
    ],
)
def test_body_by_hand(text, judgement, dial_tokenizer):
    body = spans.body(dial_tokenizer.token_bytes(), CLOSE, OPEN)
    states = walk(body.automaton, dial_tokenizer.encode(text))
    assert body.judgement[states[-1]] == judgement == judge(text.encode())


# ------------------------------------------------------------------------------------------------ real tokenizers


def cuts(text: bytes, ids: dict[bytes, int]):
    """Every way to write `text` in tokens."""
    if not text:
        yield []
    for size in range(1, len(text) + 1):
        if text[:size] in ids:
            for rest in cuts(text[size:], ids):
                yield [ids[text[:size]], *rest]


@pytest.fixture(scope="module")
def qwen(qwen_tokenizer):
    table = qwen_tokenizer.token_bytes()
    return qwen_tokenizer, search(table, [CLOSE]), spans.body(table, CLOSE, OPEN)


@pytest.mark.parametrize(
    "before", ["", ".", "\n", "\n\n", " ", "<", "</", "...", "é", "数学", "🙂", ").", '"', "><", "</r", "#"]
)
@pytest.mark.parametrize("after", ["", "\n", "x", ".", ">", "\n\n", "数"])
def test_qwen_finds_the_tag_in_text(qwen, before, after):
    """However the tokenizer merges the tag's ends with their neighbours."""
    tokenizer, tag, body = qwen
    text = f"So 7 + 5 = 12{before}{CLOSE}{after}"
    tokens = tokenizer.encode(text)
    read, states = b"", walk(tag, tokens)
    for token, state, judged in zip(tokens, states, walk(body.automaton, tokens), strict=True):
        read += tokenizer.bytes_of([token])
        assert bool(tag.accepting[state]) == (read.find(CLOSE.encode()) >= 0)
        assert body.judgement[judged] == judge(read)
    assert read == text.encode() and tag.accepting[states[-1]]


@pytest.mark.parametrize("text", [CLOSE, f".{CLOSE}", f"<{CLOSE}\n"])
def test_qwen_finds_the_tag_in_every_tokenization(qwen, text):
    """All ways to write the text in Qwen's tokens; accepting exactly with the token that completes the tag."""
    tokenizer, tag, _ = qwen
    wanted = {text.encode()[i:j] for i in range(len(text)) for j in range(i + 1, len(text) + 1)}
    pieces = [tokenizer.bytes_of([token]) for token in range(len(tokenizer))]
    ids = {piece: token for token, piece in enumerate(pieces) if piece in wanted}
    ways = list(cuts(text.encode(), ids))
    assert len(ways) > 100 and min(map(len, ways)) < 6
    filled = pad(ways, len(text), 0)
    states = np.asarray(jax.jit(tag.run)(filled.ids, filled.valid))
    ends = np.cumsum([[len(pieces[t]) for t in way] + [0] * (len(text) - len(way)) for way in ways], axis=1)
    complete = text.index(CLOSE) + len(CLOSE)
    np.testing.assert_array_equal(np.asarray(tag.accepting)[states], ends >= complete)


def test_dial_finds_the_tag_from_bytes_and_whole(dial_tokenizer):
    tag = search(dial_tokenizer.token_bytes(), [CLOSE])
    whole = dial_tokenizer.encode(CLOSE)
    single = {dial_tokenizer.bytes_of([token]): token for token in range(len(dial_tokenizer))}
    spelt = [single[bytes([byte])] for byte in CLOSE.encode()]
    assert len(whole) == 1 and len(spelt) == 12
    assert tag.accepting[walk(tag, whole)].tolist() == [True]
    assert tag.accepting[walk(tag, spelt)].tolist() == [False] * 11 + [True]


# --------------------------------------------------------------------------------------------------- splice and pad


def test_splice_by_hand():
    middle = Tokens(jnp.array([[5, 6, 7], [8, 9, 0]]), jnp.array([[1, 0, 1], [0, 0, 0]], bool))
    whole = splice((1, 2), middle, (3,))
    np.testing.assert_array_equal(whole.ids, [[1, 2, 5, 6, 7, 3], [1, 2, 8, 9, 0, 3]])
    np.testing.assert_array_equal(whole.valid, [[1, 1, 1, 0, 1, 1], [1, 1, 0, 0, 0, 1]])
    some = splice((), middle, (3, 4), tail_when=jnp.array([False, True]))
    np.testing.assert_array_equal(some.ids, [[5, 6, 7, 3, 4], [8, 9, 0, 3, 4]])
    np.testing.assert_array_equal(some.valid, [[1, 0, 1, 0, 0], [0, 0, 0, 1, 1]])
    assert splice((), middle, ()).ids.shape == (2, 3)


def test_spliced_tokens_read_as_compact_ones(tiny):
    """The model cannot tell holes from tokens that are not there."""
    rng = np.random.default_rng(0)
    middle = Tokens(rng.integers(0, 37, (2, 2, 5)), rng.random((2, 2, 5)) < 0.5)
    when = np.array([[True, False], [True, True]])
    read = jax.jit(partial(tiny.model.apply), compiler_options={"xla_backend_optimization_level": 0})
    whole = splice((1, 2), middle, (3, 4), tail_when=jnp.asarray(when))
    hidden = np.asarray(read(tiny.variables, whole.ids, whole.valid)[0])
    rows = [[1, 2, *middle.ids[row][middle.valid[row]], *((3, 4) if when[row] else ())] for row in np.ndindex(2, 2)]
    compact = pad(rows, 9, 0)
    assert compact.valid.sum() < compact.valid.size - 4
    expected = np.asarray(read(tiny.variables, compact.ids.reshape(2, 2, 9), compact.valid.reshape(2, 2, 9))[0])
    np.testing.assert_allclose(
        hidden[np.asarray(whole.valid)], expected[np.asarray(compact.valid).reshape(2, 2, 9)], atol=1e-5
    )


def test_pad():
    tokens = pad([[1, 2, 3], [], [4]], 3, 9)
    np.testing.assert_array_equal(tokens.ids, [[1, 2, 3], [9, 9, 9], [4, 9, 9]])
    np.testing.assert_array_equal(tokens.valid, [[1, 1, 1], [0, 0, 0], [1, 0, 0]])
    assert tokens.ids.dtype == np.int32 and tokens.valid.dtype == bool
    with pytest.raises(ValueError, match="4 tokens do not fit 3 slots"):
        pad([[1], [1, 2, 3, 4]], 3, 0)
