import dataclasses
import importlib.util
import json
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from tracelift_jax.models.segment import Segment
from tracelift_jax.models.transformer import ModelConfig, Transformer, forward, logits_of
from tracelift_jax.rollout.batch import PromptBatch, Text, Weights
from tracelift_jax.rollout.rollout import rollout
from tracelift_jax.rollout.sample import draw
from tracelift_jax.text.numbers import Number
from tracelift_jax.text.spans import BodyAutomaton
from tracelift_jax.text.tokenizer import TokenBytes

_SPEC = importlib.util.spec_from_file_location("step_cost", Path(__file__).parents[2] / "benchmarks" / "step_cost.py")
assert _SPEC and _SPEC.loader
step_cost = importlib.util.module_from_spec(_SPEC)
sys.modules["step_cost"] = step_cost  # dataclasses look their module up
_SPEC.loader.exec_module(step_cost)

# Wide enough for matrix products to drown what is elementwise; 3 layers, so that no loop is short enough to vanish.
TINY = ModelConfig(512, 128, 512, 3, 4, 2, 32)
SIZES = step_cost.Sizes(prompt=20, reasoning=6, answer=4, traces=3, repeats=2, baseline_samples=5)
struct = jax.ShapeDtypeStruct


def floats(*shape):
    return struct(shape, jnp.float32)


def pieces(config=TINY, sizes=SIZES):
    return {(p.side, p.name): p for p in step_cost.Pieces(config, sizes).list}


def work(piece):
    return step_cost.count(piece.fun, *piece.args, steps=piece.steps)


def layer(tokens, keys, c=TINY):
    """2 operations a weight and token, and scores and mixing: 2 x 2 H Q a key and token."""
    weights = c.width * c.head_width * (2 * c.heads + 2 * c.kv_heads) + 3 * c.width * c.ff_width
    return 2 * tokens * weights + 4 * tokens * keys * c.heads * c.head_width


def test_xla_counts_two_operations_a_multiply_add():
    assert step_cost.count(jnp.matmul, floats(7, 96), floats(96, 50)).flops == 2 * 7 * 96 * 50


def test_xla_counts_a_loop_body_once_and_we_count_its_trips():
    def scanned(x, w):
        return jax.lax.scan(lambda x, w: (x @ w, None), x, w)[0]

    def nested(x, w):
        return jax.lax.while_loop(
            lambda s: (s[1] < 9) & (s[0].sum() < 1e9), lambda s: (scanned(s[0], w), s[1] + 1), (x, 0)
        )

    x, w, one = floats(32, 64), floats(5, 64, 64), 2 * 32 * 64 * 64
    for fun, steps, trips, loops in [(scanned, None, 5, ("5",)), (nested, 9, 45, ("9", "9x5"))]:
        counted = step_cost.count(lambda x, w, fun=fun: fun(x, w), x, w, steps=steps)
        assert counted.once == pytest.approx(one, rel=0.02)
        assert counted.flops == pytest.approx(trips * one, rel=0.02)
        assert counted.loops == loops


def test_loops_that_cannot_be_counted_are_refused():
    with pytest.raises(ValueError, match="unroll"):
        step_cost.count(lambda x: jax.lax.scan(lambda x, _: (x * 2, None), x, length=4, unroll=2)[0], floats(3))
    with pytest.raises(ValueError, match="while"):
        step_cost.count(lambda x: jax.lax.while_loop(lambda x: x < 9, lambda x: x + 1, x), floats())


def test_loops_whose_results_are_unused_are_not_counted():
    def fun(x):
        jax.lax.scan(lambda x, _: (x @ x, None), x, length=100)
        return x + 1

    assert step_cost.count(fun, floats(16, 16)).flops == 256


def test_reading_by_hand():
    # traces of 6 tokens + 4 + 4 of tags + 3 of question see 20 of the problem and themselves
    tokens = 3 * 17
    counted = work(pieces()["tree", "executor: read traces"])
    assert counted.flops == pytest.approx(3 * layer(tokens, 20 + 17), rel=0.05)
    assert counted.loops == ("3",)


@pytest.mark.slow
def test_updates_by_hand():
    # 40 traces of 100: 2 chunks of 64. Forward; once more for remat, without the last product of each layer, whose
    # result the backward pass does not need; and backward to activations only: the base is frozen. Attention's two
    # products have four gradients. The adapter (rank 1) adds about 3 percent.
    sizes = dataclasses.replace(SIZES, reasoning=100, traces=4, lora_rank=1)
    found = pieces(sizes=sizes)
    for side, nodes in {"tree": [(24, 24), (4 * 100, 124)], "flat": [(4 * 124, 124)]}.items():
        hand = 0
        for tokens, keys in nodes:
            attention = layer(tokens, keys) - layer(tokens, 0)
            hand += 3 * (3 * layer(tokens, 0) + 4 * attention - 2 * tokens * TINY.width * TINY.ff_width)
        hand += 3 * 2 * (4 * 2 * 50) * TINY.width * TINY.vocab_size
        assert work(found[side, "planner: update"]).flops == pytest.approx(hand, rel=0.08), side


@pytest.mark.slow
def test_decoding_equals_an_unrolled_program():
    piece = pieces()["tree", "executor: write answers"]
    weights, end, context, key, _ = piece.args
    model = Transformer(dataclasses.replace(TINY, scan_unroll=TINY.layers))
    lead, sampling = (1, 3, 3), step_cost.make_setup(TINY, SIZES).executor_sampling
    shape = (TINY.layers, *lead, sampling.max_tokens - 1, TINY.kv_heads, TINY.head_width)
    own = Segment(floats(*shape), floats(*shape), struct(shape[1:5], bool))  # pyright: ignore[reportArgumentType]

    def unrolled(weights, end, context, key, own):
        logits = jnp.broadcast_to(logits_of(model, weights, end)[:, :, None], (*lead, TINY.vocab_size))
        token, first = draw(logits, key, sampling)
        logprobs = [first]
        for slot in range(1, sampling.max_tokens):
            valid = jnp.ones((*lead, 1), bool)
            hidden, new = forward(model, weights, token[..., None], valid, (*context, own))
            token, logprob = draw(logits_of(model, weights, hidden[..., 0, :]), jax.random.fold_in(key, slot), sampling)
            own = own.write(new, slot - 1)
            logprobs.append(logprob)
        return token, logprobs

    whole = step_cost.xla_flops(jax.make_jaxpr(unrolled)(weights, end, context, key, own))
    counted = work(piece)
    assert counted.flops == pytest.approx(whole, rel=0.03)
    assert counted.loops == ("3", "3x3")


@pytest.mark.slow
def test_gradients_equal_an_unrolled_program():
    # Without remat: outside a loop XLA would find that it had computed the same before.
    looped, unrolled = (
        pieces(dataclasses.replace(TINY, remat="none", scan_unroll=unroll))["tree", "planner: update"]
        for unroll in (1, 3)
    )
    whole = step_cost.xla_flops(jax.make_jaxpr(unrolled.fun)(*unrolled.args))
    assert work(looped).flops == pytest.approx(whole, rel=0.03)


def rollout_args(sizes, config):
    """Shapes of the arguments of the real rollout of one problem."""
    listed = step_cost.Pieces(config, sizes)
    automaton = listed.stop
    table = TokenBytes(struct((config.vocab_size, 4), jnp.uint8), struct((config.vocab_size,), jnp.int32))  # pyright: ignore
    text = Text(table, BodyAutomaton(automaton, struct((16,), jnp.int32)), automaton)  # pyright: ignore[reportArgumentType]
    digits, flag, number = struct((1, 48), jnp.int8), struct((1,), bool), struct((1,), jnp.int32)
    prompts = [step_cost.tokens(1, sizes.prompt)] * 3
    answer = Number(found=flag, negative=flag, numerator=digits, denominator=digits)  # pyright: ignore
    batch = PromptBatch(*prompts, answer, step_cost.tokens(1, sizes.answer), number, number, number, flag)  # pyright: ignore
    weights = Weights(listed.planner, listed.base, (listed.base, listed.heads))
    return listed, (text, weights, batch, listed.key)


def check_rollout(config, sizes, rel):
    listed, args = rollout_args(sizes, config)
    whole = step_cost.count(partial(rollout, listed.setup), *args, steps=sizes.answer - 1).flops
    parts = sum(work(p).flops for p in listed.list if p.side in ("tree", "miss") and p.phase != "train")
    assert parts == pytest.approx(whole, rel=rel)


@pytest.mark.slow
def test_the_pieces_are_the_whole_rollout():
    # Both loops are of one length here. The rest is reading numbers and the like.
    check_rollout(TINY, dataclasses.replace(SIZES, reasoning=4), rel=0.05)


@pytest.mark.slow
def test_the_command(capsys, monkeypatch):
    monkeypatch.setattr(step_cost, "xla_flops", lambda traced: 1.0)  # every program costs 1, so no ratio is small
    sizes = "--prompt 8 --reasoning 4 --answer 2 --traces 2 --repeats 1 --baseline_samples 1 --lora_rank 0"
    assert step_cost.main([*sizes.split(), "--model", "tiny"]) == 0  # which only the default sizes are asked for
    shown = capsys.readouterr().out
    assert "executor: write answers" in shown
    assert "miss/flat" in shown
    assert step_cost.main(["--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["given"]["traces"] == 8
    assert told["flops"]["step"]["flat"] == sum(p["flops"] for p in told["pieces"] if p["side"] == "flat")
    # 132 + 159 x 8 + 128 + 8 x 171 + 2 + 7 x 32 + 128 + 8 x 168 + 3 x (132 + 8 x 160)
    assert told["token_forwards"]["step"]["hit"] == 8834
    with pytest.raises(SystemExit, match="2"):
        step_cost.main(["--traces", "0"])


@pytest.mark.slow
def test_a_step_costs_at_most_two_fifths_of_flat():
    assert step_cost.main([]) == 0


@pytest.mark.slow
def test_the_pieces_are_the_whole_rollout_at_full_size():
    config = dataclasses.replace(step_cost.MODELS["1.5b"], dtype="bfloat16", param_dtype="bfloat16")
    check_rollout(config, step_cost.Sizes(reasoning=8), rel=0.01)
