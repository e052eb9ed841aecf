"""Decoding against repeated forwards over the whole text, and drawing against numpy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tracelift_jax.errors import UserError
from tracelift_jax.models.logprobs import shift, token_logprobs
from tracelift_jax.models.segment import last_valid
from tracelift_jax.rollout.sample import Sampling, draw, sample
from tracelift_jax.text.spans import search
from tracelift_jax.text.tokenizer import TokenBytes

jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # compile time is all that counts here
V, END, SIZE = 37, 5, 12
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789."
PROBLEM = np.array([[1, 2, 3, 4], [6, 7, 0, 8]], np.int32), np.array([[1, 1, 1, 1], [1, 1, 0, 1]], bool)
LEAD = (2, 3)


@pytest.fixture(scope="module")
def table() -> TokenBytes:
    """Token i is the i-th of `LETTERS`; the end token has no bytes."""
    data = np.frombuffer(LETTERS.encode(), np.uint8)[:, None]
    return TokenBytes(data, (np.arange(V) != END).astype(np.int32))


@pytest.fixture(scope="module")
def run(tiny_of):
    """`run(stop, sampling, seed)`: samples [2, 3] below two problems; compiled once for all that is not a seed."""
    tiny, compiled = tiny_of(scan_unroll=1), {}

    def run(stop, sampling: Sampling, seed: int = 0, lead=LEAD, ends=(END,)):
        @jit
        def decode(variables, key):
            hidden, problem = tiny.model.apply(variables, *PROBLEM)
            before = last_valid(hidden, PROBLEM[1])
            return sample(tiny.model, variables, before, (problem,), lead, key, stop, ends, sampling)

        decode = compiled.setdefault((id(stop), sampling, lead, ends), decode)
        return jax.device_get(decode(tiny.variables, jax.random.key(seed)))

    run.tiny = tiny
    return run


@pytest.fixture(scope="module")
def never(table):
    return search(table, [])


FREE = Sampling(max_tokens=SIZE, temperature=0.7)
WARM = Sampling(max_tokens=SIZE, temperature=1.3, top_p=0.6)


def texts(samples, row) -> str:
    tokens = samples.tokens.ids[row][samples.tokens.valid[row]]
    return "".join(LETTERS[t] for t in tokens)


# ------------------------------------------------------------------------------------------------------------ decoding


def test_greedy_is_the_argmax_of_repeated_forwards(run, never):
    """Each next token from a flat forward over problem and answer so far."""
    tiny = run.tiny
    samples = run(never, Sampling(max_tokens=SIZE, temperature=0))
    flat = jit(lambda v, ids: tiny.model.apply(v, tiny.model.apply(v, ids, ids >= 0)[0], method="logits"))
    for b in range(2):
        text = list(PROBLEM[0][b][PROBLEM[1][b]])
        start = len(text)
        while len(text) < start + SIZE and END not in text[start:]:
            ids = np.full((1, 4 + SIZE), -1, np.int32)
            ids[0, : len(text)] = text
            text.append(int(np.argmax(flat(tiny.variables, ids)[0, len(text) - 1])))
        for g in range(3):
            assert samples.tokens.ids[b, g][samples.tokens.valid[b, g]].tolist() == text[start:]
    assert samples.tokens.valid.sum() > 12


@pytest.mark.parametrize("sampling", [FREE, WARM, Sampling(max_tokens=SIZE, temperature=0)], ids=str)
def test_logprobs_are_those_of_teacher_forcing(run, never, sampling):
    """At that temperature, before top-p; greedy at temperature 1."""
    tiny, samples = run.tiny, run(never, sampling)

    @jit
    def forced(variables, ids, valid):
        hidden, problem = tiny.model.apply(variables, *PROBLEM)
        before = jnp.broadcast_to(last_valid(hidden, PROBLEM[1])[:, None], (*LEAD, tiny.config.width))
        states, _ = tiny.model.apply(variables, ids, valid, (problem,))
        return token_logprobs(tiny.model, variables, shift(before, states), ids, sampling.temperature or 1.0)

    expected = forced(tiny.variables, samples.tokens.ids, samples.tokens.valid)
    valid = samples.tokens.valid
    np.testing.assert_allclose(samples.logprobs[valid], np.asarray(expected)[valid], atol=1e-5)
    assert (samples.logprobs[~valid] == 0).all()
    assert valid.sum() > 30


def test_rows_stop_at_the_stop_string_or_the_end_token(run, table):
    """By reading each row's text: it ends with the first thing that stops it; what follows is invalid."""
    patterns = ["c", "7", "k"]
    stop = search(table, patterns)
    stopped, ended, open_ = 0, 0, 0
    for seed in range(6):
        samples = run(stop, FREE, seed)
        for row in np.ndindex(LEAD):
            valid = samples.tokens.valid[row]
            length = int(valid.sum())
            assert valid[:length].all() and 1 <= length <= SIZE
            tokens = samples.tokens.ids[row][:length]
            text = "".join("" if t == END else LETTERS[t] for t in tokens)
            found = min((text.find(p) + len(p) for p in patterns if p in text), default=None)
            assert bool(samples.stopped[row]) == (found is not None) == bool(stop.accepting[samples.state[row]])
            assert bool(samples.ended[row]) == (END in tokens)
            if found is not None:
                assert found == len(text) and tokens[-1] != END
            elif END in tokens:
                assert list(tokens).index(END) == length - 1
            else:
                assert length == SIZE
            stopped, ended, open_ = stopped + (found is not None), ended + (END in tokens), open_ + (length == SIZE)
    assert stopped > 5 and ended > 0 and open_ > 0  # all three happened


def test_a_stop_string_over_several_tokens(run, never, table):
    """Strings that the same key draws anyway: each row is cut right behind the first of them, and the rest stay."""
    free = run(never, FREE, 1)
    strings = [texts(free, (0, 0))[2:4], texts(free, (1, 2))[1:4]]
    assert [len(s) for s in strings] == [2, 3] and LETTERS[END] not in "".join(strings)
    cut = run(search(table, strings), FREE, 1)
    for row in np.ndindex(LEAD):
        text = texts(free, row)
        ends = [text.find(s) + len(s) for s in strings if s in text]
        assert texts(cut, row) == (text[: min(ends)] if ends else text)
        assert bool(cut.stopped[row]) == bool(ends)
    assert cut.stopped[0, 0] and cut.stopped[1, 2] and not cut.stopped.all()


def test_each_end_token_ends_a_row(run, never):
    """The same key draws the same tokens whatever ends them: each row is cut right behind the first of the ends."""
    free = run(never, FREE, 1, ends=())
    assert free.tokens.valid.all() and not free.ended.any()
    ends = int(free.tokens.ids[0, 0, 2]), int(free.tokens.ids[1, 2, 4])
    cut = run(never, FREE, 1, ends=ends)
    for row in np.ndindex(LEAD):
        drawn = free.tokens.ids[row].tolist()
        length = next((i + 1 for i, token in enumerate(drawn) if token in ends), SIZE)
        assert cut.tokens.ids[row][cut.tokens.valid[row]].tolist() == drawn[:length]
        assert bool(cut.ended[row]) == any(token in ends for token in drawn)
    last = [cut.tokens.ids[row][cut.tokens.valid[row]][-1] for row in [(0, 0), (1, 2)]]
    assert set(last) == set(ends) and len(set(ends)) == 2  # either of the two has ended something
    assert not cut.stopped.any()


def test_the_key_decides(run, never):
    """The same key draws the same, another key something else; and the traces of a problem differ."""
    one, again, other = run(never, FREE, 1), run(never, FREE, 1), run(never, FREE, 2)
    jax.tree.map(np.testing.assert_array_equal, one, again)
    assert (one.tokens.ids != other.tokens.ids).any()
    for b in range(2):
        assert len({texts(one, (b, g)) for g in range(3)}) == 3


def test_every_slot_has_noise_of_its_own(run, never):
    """A model without preference: its tokens are uniform and independent, along a row and between rows."""
    tiny = run.tiny
    flat = {"params": tiny.params | {"embedding": np.zeros_like(tiny.params["embedding"])}}
    before, key = jnp.zeros((100, tiny.config.width)), jax.random.key(0)
    settings = Sampling(max_tokens=4)
    samples = jit(lambda v: sample(tiny.model, v, before, (), (100,), key, never, (), settings))(flat)
    ids = np.asarray(samples.tokens.ids)
    np.testing.assert_allclose(samples.logprobs, -np.log(V), rtol=1e-6)
    for one, other in [(ids[:, 0], ids[:, 1]), (ids[:, 2], ids[:, 3]), (ids[:-1, 0], ids[1:, 0])]:
        assert (one == other).sum() < 12  # 100 / 37 = 2.7 expected
    assert len(np.unique(ids)) == V


def test_a_longer_limit_draws_the_same_beginning(run, never):
    """Token t is drawn with fold_in(key, t), whatever comes later."""
    long, short = run(never, FREE, 4), run(never, Sampling(max_tokens=5, temperature=0.7), 4)
    np.testing.assert_array_equal(short.tokens.ids, long.tokens.ids[..., :5])
    np.testing.assert_array_equal(short.tokens.valid, long.tokens.valid[..., :5])


@pytest.mark.parametrize("sampling", [Sampling(1, 0.0), Sampling(1, 0.7)], ids=["greedy", "sampled"])
def test_one_token(run, never, sampling):
    """The first token of what a longer limit draws."""
    one, more = run(never, sampling, 6), run(never, Sampling(2, sampling.temperature), 6)
    assert one.tokens.ids.shape == (*LEAD, 1) and one.tokens.valid.all()
    np.testing.assert_array_equal(one.tokens.ids[..., 0], more.tokens.ids[..., 0])
    np.testing.assert_allclose(one.logprobs[..., 0], more.logprobs[..., 0], atol=1e-6)


def test_deeper_leads_draw_below_the_same_problem(run, never):
    """[2, 2, 2] samples greedily what [2, 3] does: the text depends on the problem alone."""
    greedy = Sampling(max_tokens=SIZE, temperature=0)
    flat, deep = run(never, greedy), run(never, greedy, lead=(2, 2, 2))
    for b, g, k in np.ndindex(2, 2, 2):
        assert texts(deep, (b, g, k)) == texts(flat, (b, 0))


# ------------------------------------------------------------------------------------------------------------- drawing

LOGITS = np.log(np.array([0.05, 0.4, 0.1, 0.25, 0.15, 0.05]))
ROWS = 20_000
CHI2 = {1: 10.83, 2: 13.82, 5: 20.52}  # 99.9 % quantiles


def chi_square(tokens, probability) -> float:
    counts = np.bincount(tokens, minlength=len(probability))
    assert (counts[probability == 0] == 0).all()
    expected = probability * len(tokens)
    real = probability > 0
    return float(((counts - expected)[real] ** 2 / expected[real]).sum())


@pytest.mark.parametrize(
    ("temperature", "top_p", "kept"),
    [
        (1.0, 1.0, [0, 1, 2, 3, 4, 5]),
        (0.5, 1.0, [0, 1, 2, 3, 4, 5]),
        (1.0, 0.64, [1, 3]),  # 0.4 + 0.25 = 0.65 is the first sum to reach it
        (1.0, 0.66, [1, 3, 4]),
        (0.5, 0.7, [1, 3]),  # squares 1 : 64 : 4 : 25 : 9 : 1 of 104: 0.62 + 0.24 = 0.86
    ],
)
def test_draws_follow_the_distribution(temperature, top_p, kept):
    """Chi-square with a fixed key; at temperature 1/2 the probabilities are as the squares."""
    probability = np.exp(LOGITS / temperature)
    probability /= probability.sum()
    logits = jnp.broadcast_to(jnp.asarray(LOGITS, jnp.float32), (ROWS // 4, 4, 6))
    token, logprob = draw(logits, jax.random.key(0), Sampling(1, temperature, top_p))
    assert token.shape == (ROWS // 4, 4) and token.dtype == jnp.int32
    np.testing.assert_allclose(logprob, np.log(probability)[token], atol=1e-5)  # not renormalised to the nucleus
    nucleus = np.where(np.isin(np.arange(6), kept), probability, 0)
    assert set(np.unique(token)) == set(kept)
    assert chi_square(np.asarray(token).ravel(), nucleus / nucleus.sum()) < CHI2[len(kept) - 1]


@pytest.mark.parametrize("top_p", [0.05, 0.3, 0.6, 0.9, 0.99])
def test_top_p_never_leaves_the_nucleus(top_p):
    """3,000 rows with logits of their own; the nucleus of each by a sorted sum in float64."""
    logits = np.random.default_rng(0).standard_normal((3000, 50)).astype(np.float32) * 2
    token, _ = draw(jnp.asarray(logits), jax.random.key(1), Sampling(1, 0.8, top_p))
    scaled = logits.astype(np.float64) / 0.8
    probability = np.exp(scaled - scaled.max(-1, keepdims=True))
    probability /= probability.sum(-1, keepdims=True)
    sizes = []
    for row, drawn in enumerate(np.asarray(token)):
        order = np.argsort(-probability[row])
        size = int(np.argmax(np.cumsum(probability[row][order]) >= top_p - 1e-6)) + 1
        assert drawn in order[:size]
        sizes.append((size, int(np.flatnonzero(order == drawn)[0]) + 1))
    if top_p > 0.1:  # and it is used to its last token
        assert sum(size == rank for size, rank in sizes if size > 1) > 5


def test_greedy_draw_by_hand():
    token, logprob = draw(jnp.log(jnp.array([[0.2, 0.7, 0.1], [0.5, 0.2, 0.3]])), jax.random.key(0), Sampling(1, 0.0))
    assert token.tolist() == [1, 0] and token.dtype == jnp.int32
    np.testing.assert_allclose(logprob, np.log([0.7, 0.5]), atol=1e-6)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"max_tokens": 0}, "Sampling.max_tokens"),
        ({"max_tokens": 4, "temperature": -0.1}, "Sampling.temperature"),
        ({"max_tokens": 4, "top_p": 0.0}, "Sampling.top_p"),
        ({"max_tokens": 4, "top_p": 1.01}, "Sampling.top_p"),
    ],
    ids=str,
)
def test_wrong_settings_are_refused(values, field):
    with pytest.raises(UserError, match=f"^{field} "):
        Sampling(**values)
