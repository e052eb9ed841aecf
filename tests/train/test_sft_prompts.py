"""Supervised fine-tuning where planner and executor read the problem in different words."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chat_tokenizers import write_qwen3
from tiny import TASK

from tracelift_jax.config import Chat, Frame, Prompts, Sft
from tracelift_jax.text.prompts import Pieces
from tracelift_jax.text.tokenizer import Tokenizer
from tracelift_jax.train import sft
from tracelift_jax.train.data import eval_batches

CHATS = Prompts(
    planner=Chat(before="Explain.\n\n"), executor=Chat(system="Compute.", after="\n"), ask=" So?", ask_directly="\nSo?"
)
MIXED = Prompts(planner=Frame("Explain: "), executor=Frame("Compute: "))
SIZE = 150


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    return Tokenizer.load(write_qwen3(tmp_path_factory.mktemp("qwen3")))


@pytest.fixture(scope="module")
def read(tiny_of, tokenizer):
    """The model, its parameters, and the log-probabilities of every token of a flat sequence."""
    tiny = tiny_of(vocab_size=len(tokenizer), scan_unroll=1)

    @jax.jit
    def table(ids):
        hidden, _ = tiny.model.apply(tiny.variables, ids, ids >= 0)
        return jax.nn.log_softmax(tiny.model.apply(tiny.variables, hidden, method="logits"))[0]

    def logprobs(ids: list[int]) -> np.ndarray:
        assert len(ids) <= 2 * SIZE
        rows = np.asarray(table(jnp.array([ids + [0] * (2 * SIZE - len(ids))])), np.float64)
        return np.array([rows[i - 1, token] for i, token in enumerate(ids)][1:])

    return tiny, logprobs


@pytest.mark.parametrize("prompts", [CHATS, MIXED], ids=["chats", "frames"])
def test_each_role_learns_in_its_own_words(tokenizer, read, prompts):
    """The loss is that of three flat sequences: what is read in a rollout, then what is to be written."""
    tiny, logprobs = read
    p, problems = Pieces(prompts, tokenizer), TASK.problems("train")
    room = {"prompt_tokens": SIZE, "branch_tokens": SIZE}
    config = Sft(TASK, "-", prompts=prompts, trace_weight=0.5, direct_weight=0.3, **room)
    traces, answers, direct = [], [], []
    for problem in problems:
        trace, answer = p.trace(problem.reasoning), p.answer(problem.answer)
        shown = [*p.problem("executor", problem)]
        traces += logprobs([*p.problem("planner", problem), *p.open, *trace])[-len(trace) :].tolist()
        answers += logprobs([*shown, *p.open, *trace, *p.ask, *answer])[-len(answer) :].tolist()
        direct += logprobs([*shown, *p.ask_directly, *answer])[-len(answer) :].tolist()
    [(batch, _, _)] = eval_batches(problems, partial(sft.encode, p, config), len(problems))
    loss = jax.jit(partial(sft.sft_loss, tiny.model))
    (total, weight), parts = loss({"params": tiny.params}, {}, batch, jax.random.key(0))
    reasoned, tokens = 0.5 * sum(traces) + sum(answers), 0.5 * len(traces) + len(answers)
    np.testing.assert_allclose(parts["loss/reasoned"], (-reasoned, tokens), rtol=1e-5)
    np.testing.assert_allclose(parts["loss/direct"], (-0.3 * sum(direct), 0.3 * len(direct)), rtol=1e-5)
    np.testing.assert_allclose(total, -reasoned - 0.3 * sum(direct), rtol=1e-5)
    np.testing.assert_allclose(weight, tokens + 0.3 * len(direct), rtol=1e-5)


@pytest.mark.parametrize("prompts", [CHATS, Prompts()], ids=["apart", "shared"])
def test_a_base_that_need_only_answer_learns_no_token_of_the_reasoning(tokenizer, prompts):
    p, problem = Pieces(prompts, tokenizer), TASK.problems("train")[0]
    config = Sft(TASK, "-", prompts=prompts, prompt_tokens=SIZE, branch_tokens=SIZE, trace_weight=0.0)
    one = sft.encode(p, config, 0, problem)
    assert one is not None
    learnt = one.branches.ids[np.asarray(one.weight) > 0].tolist()
    assert learnt == 2 * list(p.answer(problem.answer))


def test_problems_that_do_not_fit_for_one_of_the_two_are_left_out(tokenizer):
    p, [problem, *_] = Pieces(CHATS, tokenizer), TASK.problems("train")
    most = max(len(p.problem("planner", problem)), len(p.problem("executor", problem)))
    for room, fits in [(most, True), (most - 1, False)]:
        config = Sft(TASK, "-", prompts=CHATS, prompt_tokens=room, branch_tokens=SIZE)
        assert (sft.encode(p, config, 0, problem) is not None) == fits
