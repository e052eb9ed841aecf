"""Model files with the runs they are for: they load as their headers say, and the roles read what they should."""

import dataclasses
import re
import shlex
from pathlib import Path

import pytest
from chat_tokenizers import write_llama, write_qwen3

from tracelift_jax import gin_config
from tracelift_jax.config import Chat, Frame, Prompts, Train
from tracelift_jax.errors import UserError
from tracelift_jax.rollout.batch import Sizes, encode_problem
from tracelift_jax.tasks.files import JsonlTask
from tracelift_jax.tasks.problem import Problem
from tracelift_jax.text.prompts import Pieces
from tracelift_jax.text.tokenizer import Tokenizer

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
MODELS = sorted(file.stem for file in (EXPERIMENTS / "models").glob("*.gin"))
CHATTING = {"qwen3_8b", "llama3.1_8b"}
FLAGS = ("BASE=there/base", "TRAIN=there/train.jsonl", "TEST=there/test.jsonl")
PROBLEM = Problem("p", "Janet has 16 eggs, eats 3 and sells the rest at $2. How much does she get?", "26")
REASONING = "16 - 3 = 13 eggs are sold."


def load(model: str, run: str = "planner", *flags: str) -> Train:
    files = [str(EXPERIMENTS / "models" / f"{model}.gin"), str(EXPERIMENTS / "gsm8k" / f"{run}.gin")]
    return gin_config.load(Train, files, [*FLAGS, *flags]).value


def test_the_models_there_are():
    assert set(MODELS) == {"qwen2.5_0.5b", "qwen2.5_1.5b", "qwen2.5_7b", *CHATTING}


@pytest.mark.parametrize("model", MODELS)
def test_a_model_with_the_planners_run(model):
    train = load(model)
    roles, base = train.roles, train.roles.base
    assert (base.path, base.dtype, base.param_dtype, base.remat) == ("there/base", "bfloat16", "bfloat16", "full")
    assert roles.task == JsonlTask("there/train.jsonl", "there/test.jsonl", "gsm8k")
    assert roles.reward_model is None
    kind = Chat if model in CHATTING else Frame
    assert type(roles.prompts.planner) is type(roles.prompts.executor) is kind
    assert type(roles.prompts.reward_model) is Frame
    # METHOD's settings.
    assert (roles.traces, roles.planner.max_tokens, roles.planner.temperature) == (4, 512, 0.7)
    assert (roles.executor.max_tokens, roles.executor.temperature) == (256, 0.5)
    assert (roles.lora.rank, roles.lora.alpha) == (16, 32.0)
    assert (train.optimizer.learning_rate, train.schedule.steps) == (5e-6, 600)


@pytest.mark.parametrize("model", MODELS)
def test_rewards_are_chosen_by_flag_or_file(model):
    assert load(model).roles.reward.kind == "uplift_only"
    assert load(model, "planner", "RewardConfig.kind=exec_only").roles.reward.kind == "exec_only"
    roles = load(model, "tracelift", "GRADER=there/grader").roles
    assert (roles.reward.kind, roles.reward_model.path) == ("tracelift", "there/grader")
    assert roles.reward_model.param_dtype == "bfloat16"
    with pytest.raises(UserError, match=r"Roles\.reward_model must be set"):
        load(model, "planner", "RewardConfig.kind=tracelift")


@pytest.mark.parametrize("missing", ["BASE", "TRAIN", "TEST", "GRADER"])
def test_what_is_missing_is_asked_for(missing):
    files = [str(EXPERIMENTS / "models" / "qwen2.5_0.5b.gin"), str(EXPERIMENTS / "gsm8k" / "tracelift.gin")]
    flags = [flag for flag in (*FLAGS, "GRADER=x") if not flag.startswith(missing)]
    with pytest.raises(UserError, match=rf"^{missing} has no value: give --gin\.{missing}="):
        gin_config.load(Train, files, flags)


@pytest.mark.parametrize("file", [*(f"models/{model}" for model in MODELS), "gsm8k/planner", "gsm8k/tracelift"])
def test_commands_of_the_headers(file, monkeypatch):
    """Every `tracelift train` of a header loads, and what it says to download is what it then trains."""
    monkeypatch.chdir(EXPERIMENTS.parent)
    header = (EXPERIMENTS / f"{file}.gin").read_text().split("from __gin__")[0]
    commands = re.findall(r"^#   ((?:hf|tracelift) .*)", re.sub(r" \\\n#", "", header), re.MULTILINE)
    [words] = [shlex.split(line) for line in commands if line.startswith("tracelift train ")]
    files, bindings, rest = gin_config.parse_flags(words[2:])
    assert f"experiments/{file}.gin" in files
    train = gin_config.load(Train, files, bindings).value
    assert [flag.partition("=")[0] for flag in rest] == ["--run_dir"]
    if file.startswith("models/"):
        [download] = [shlex.split(line) for line in commands if line.startswith("hf download ")]
        assert download[-2:] == ["--local-dir", train.roles.base.path]
        written = download[2].lower().replace("-instruct", "")
        assert re.sub("[-_]", "", written).endswith(Path(file).name.replace("_", ""))


@pytest.mark.parametrize("model", MODELS)
def test_every_problem_fits(shared_data, qwen_tokenizer, model):
    """The longest of GSM8K's test split with their answers, in the tokens of Qwen2.5."""
    roles = load(model).roles
    problems = JsonlTask(test=str(shared_data / "gsm8k" / "test.jsonl"), fields="gsm8k").problems("test")
    longest = sorted(problems, key=lambda p: len(p.text))[-60:] + sorted(problems, key=lambda p: len(p.answer))[-20:]
    pieces, sizes = Pieces(roles.prompts, qwen_tokenizer), Sizes(roles.prompt_tokens, roles.answer_tokens)
    assert all(encode_problem(pieces, sizes, 0, problem) for problem in longest)


# ------------------------------------------------------------------------------------------------- what the roles read

QUESTION = f"Problem: {PROBLEM.text}\n\n"
TAGGED = f"<reasoning> {REASONING} </reasoning>"
ASKED = "Final answer (only the number):"


def read(tokenizer: Tokenizer, *pieces) -> str:
    """The text of token pieces, control tokens included."""
    return tokenizer._backend.decode([token for piece in pieces for token in piece])


def test_plain_words(qwen_tokenizer):
    p = Pieces(load("qwen2.5_7b").roles.prompts, qwen_tokenizer)
    planner, executor = p.problem("planner", PROBLEM), p.problem("executor", PROBLEM)
    trace, answer = p.trace(REASONING), p.answer(PROBLEM.answer)
    assert read(qwen_tokenizer, planner, p.open, trace) == (
        "A math problem, and the reasoning that leads to its answer. The reasoning stands between <reasoning> and "
        "</reasoning>: short steps with their calculations. It does not state the final answer.\n\n" + QUESTION + TAGGED
    )
    words = "A math problem, and its final answer: one number and nothing else.\n\n" + QUESTION
    assert read(qwen_tokenizer, executor, p.open, trace, p.ask, answer) == f"{words}{TAGGED}\n\n{ASKED} 26<|im_end|>"
    assert read(qwen_tokenizer, executor, p.ask_directly, answer) == f"{words}{ASKED} 26<|im_end|>"
    # The layout of the published reward models.
    assert read(qwen_tokenizer, p.problem("reward_model", PROBLEM), p.open, trace) == (
        f"<task>math</task>\n<type>math</type>\n<problem>\n{PROBLEM.text}\n</problem>\n{TAGGED}"
    )


@pytest.fixture(scope="module", params=["qwen", "qwen3", "llama"])
def chatty(request, tmp_path_factory) -> Tokenizer:
    writers = {"llama": write_llama, "qwen3": write_qwen3}
    if request.param in writers:
        return Tokenizer.load(writers[request.param](tmp_path_factory.mktemp(request.param)))
    return request.getfixturevalue("qwen_tokenizer")


def said(tokenizer: Tokenizer, user: str, answer: str, tokenize: bool):
    """A whole conversation by `transformers`: the user's words, and the beginning of the model's."""
    render = tokenizer._backend.apply_chat_template
    options = {"add_generation_prompt": True, "enable_thinking": False, "tokenize": False}
    text = render([{"role": "user", "content": user}], **options) + answer
    return tokenizer._backend.encode(text, add_special_tokens=False) if tokenize else text


@pytest.mark.parametrize("model", sorted(CHATTING))
def test_chatting_words(chatty, model):
    prompts: Prompts = load(model).roles.prompts
    p = Pieces(prompts, chatty)
    planner, executor = p.problem("planner", PROBLEM), p.problem("executor", PROBLEM)
    trace, answer = p.trace(REASONING), p.answer(PROBLEM.answer)[:-1]
    question = f"Problem:\n{PROBLEM.text}"
    asked = (
        "Write the reasoning that leads to the answer of this math problem: short steps with their calculations, "
        f"between <reasoning> and </reasoning>. Do not state the final answer.\n\n{question}"
    )
    assert read(chatty, planner, p.open, trace) == said(chatty, asked, TAGGED, False)
    assert [*planner, *p.open, *trace] == said(chatty, asked, TAGGED, True)
    words = f"Answer this math problem. If reasoning follows it, use it.\n\n{question}\n\n"
    with_it = f"{words}{TAGGED}\n\nGive only the final number."
    assert read(chatty, executor, p.open, trace, p.ask, answer) == said(chatty, with_it, "26", False)
    # The closing tag and the line break behind it are pieces of their own, as behind a planner's tokens.
    split = dataclasses.replace(prompts, ask=" Give only the final number.")
    ids = [*executor, *p.open, *trace, *Pieces(split, chatty).ask, *answer]
    assert ids == said(chatty, f"{words}{TAGGED} Give only the final number.", "26", True)
    without = f"{words}Give only the final number."
    assert read(chatty, executor, p.ask_directly, answer) == said(chatty, without, "26", False)
    assert [*executor, *p.ask_directly, *answer] == said(chatty, without, "26", True)
