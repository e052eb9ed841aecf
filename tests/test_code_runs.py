"""The runs of `experiments/code`: their settings, their headers, the words that the roles read, and one end to end."""

import dataclasses
import json
import re
import shlex
from pathlib import Path

import pytest
from tiny import metrics, run, write_models

from tracelift_jax import gin_config
from tracelift_jax.config import Chat, CodeRewardConfig, CodeTask, Frame, Limits, Mbpp, Sampling, SandboxConfig, Train
from tracelift_jax.errors import UserError
from tracelift_jax.rollout.batch import Sizes, encode_problem
from tracelift_jax.tasks.code import HumanEval
from tracelift_jax.tasks.oracle import Tests
from tracelift_jax.tasks.problem import Problem
from tracelift_jax.tasks.programs import program_of
from tracelift_jax.tasks.sandbox import Bubblewrap
from tracelift_jax.text.prompts import Pieces

ROOT = Path(__file__).parents[1]
EXPERIMENTS = ROOT / "experiments"
ARMS = ("exec_only", "tracelift")
TASKS = {
    "mbpp": (["MBPP=there/mbpp.jsonl"], Mbpp("there/mbpp.jsonl")),
    "code": (
        ["TRAIN=there/train.jsonl", "TEST=there/dev.jsonl", "ORACLE=('there/oracle.jsonl',)"],
        CodeTask("there/train.jsonl", "there/dev.jsonl", tests="oracle", oracle=("there/oracle.jsonl",), most_tests=8),
    ),
}


def files(arm: str, task: str = "code", model: str = "qwen2.5_7b", words: str = "plain") -> list[str]:
    names = (f"models/{model}", f"code/prompts/{words}", f"tasks/{task}", f"code/{arm}")
    return [str(EXPERIMENTS / f"{name}.gin") for name in names]


def load(arm: str, *flags: str, task: str = "code", model: str = "qwen2.5_7b", words: str = "plain") -> Train:
    grader = ["GRADER=there/grader"] * (arm == "tracelift")
    given = ["BASE=there/base", *TASKS[task][0], *grader, *flags]
    return gin_config.load(Train, files(arm, task, model, words), given).value


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("arm", ARMS)
def test_the_settings_are_the_papers(arm, task):
    train = load(arm, task=task)
    roles, optimizer = train.roles, train.optimizer
    assert roles.task == TASKS[task][1]
    assert roles.base.path == "there/base" and (roles.planner_model, roles.executor_model) == (None, None)
    assert roles.lora is None  # all weights
    assert (optimizer.learning_rate, optimizer.schedule, optimizer.clip_norm) == (1e-6, "constant", 1.0)
    assert (roles.traces, train.schedule.steps) == (4, 600)
    assert roles.planner == Sampling(max_tokens=512, temperature=0.7, top_p=0.95)
    assert roles.executor == Sampling(max_tokens=768, temperature=0.5, top_p=1.0)
    assert roles.sandbox == SandboxConfig(limits=Limits(seconds=2.0, memory_mb=1024))
    reward = roles.reward
    assert isinstance(reward, CodeRewardConfig)
    assert (reward.repeats, reward.exec_style, reward.weight, reward.uplift) == (3, "hybrid", 0.2, "sampled")


def test_the_arms_differ_in_the_reward_alone():
    plain, full = load("exec_only"), load("tracelift")
    assert (plain.roles.reward.kind, full.roles.reward.kind) == ARMS
    assert plain.roles.reward_model is None and full.roles.reward_model.path == "there/grader"
    alike = dataclasses.replace(full.roles, reward=plain.roles.reward, reward_model=None)
    assert dataclasses.replace(full, roles=alike) == plain


def test_the_header_says_how_to_get_the_papers_reward():
    header = (EXPERIMENTS / "code" / "tracelift.gin").read_text()
    flags = " ".join(re.findall(r"^#   (--gin\.\S.*)", header, re.MULTILINE))
    _, bindings, rest = gin_config.parse_flags(shlex.split(flags))
    assert not rest
    paper = CodeRewardConfig("tracelift", uplift="sampled", baseline="resample", shaping="product", clip_reward=True)
    assert load("tracelift", *bindings).roles.reward == paper


def test_the_header_says_how_to_train_an_adapter():
    header = (EXPERIMENTS / "code" / "planner.gin").read_text()
    [line] = re.findall(r"^#   (--gin\.\S.*)", header, re.MULTILINE)
    _, bindings, _ = gin_config.parse_flags(shlex.split(line))
    train = load("exec_only", *bindings)
    assert train.roles.lora is not None and train.optimizer.learning_rate == 5e-6


@pytest.mark.parametrize("name", ["code/planner", "code/exec_only", "code/tracelift"])
def test_the_command_of_a_header(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    header = (EXPERIMENTS / f"{name}.gin").read_text().split("from __gin__")[0]
    [line] = re.findall(r"^#   (tracelift train .*)", re.sub(r" \\\n#", "", header), re.MULTILINE)
    given, bindings, rest = gin_config.parse_flags(shlex.split(line)[2:])
    assert f"experiments/{name}.gin" in given
    train = gin_config.load(Train, given, bindings).value
    assert train.roles.base.path.startswith("models/qwen2.5_")
    assert [flag.partition("=")[0] for flag in rest] == ["--run_dir"]
    if name != "code/planner":
        assert train.roles.mesh.fsdp == 8


@pytest.mark.parametrize("missing", ["BASE", "TRAIN", "TEST", "ORACLE", "GRADER"])
def test_what_is_missing_is_asked_for(missing):
    flags = ["BASE=b", *TASKS["code"][0], "GRADER=g"]
    with pytest.raises(UserError, match=rf"^{missing} has no value: give --gin\.{missing}="):
        gin_config.load(Train, files("tracelift"), [flag for flag in flags if not flag.startswith(missing)])


# ------------------------------------------------------------------------------------------------- what the roles read

PROBLEM = Problem(
    problem_id="p",
    text="Read two numbers and print their sum.",
    answer="",
    task_type="code",
    task_name="code",
    tests="Input:\n1 2\nOutput:\n3",
    answer_kind="program",
    oracle=Tests(inputs=("1 2\n",), outputs=("3\n",)),
)
PLAN = "Split the line and add."
PROGRAM = "a, b = map(int, input().split())\nprint(a + b)"


def read(tokenizer, *pieces) -> str:
    """The text of token pieces, control tokens included."""
    return tokenizer._backend.decode([token for piece in pieces for token in piece])


def test_plain_words(qwen_tokenizer):
    p = Pieces(load("tracelift").roles.prompts, qwen_tokenizer)
    shown = f"Problem:\n{PROBLEM.text}\n\nExamples:\n{PROBLEM.tests}\n\n"
    tagged = f"<reasoning> {PLAN} </reasoning>"
    assert read(qwen_tokenizer, p.problem("planner", PROBLEM), p.open, p.trace(PLAN)) == (
        "A programming problem, and the plan that leads to its solution. The plan stands between <reasoning> and "
        f"</reasoning>: short steps in plain words, with the cases to mind. It contains no code.\n\n{shown}{tagged}"
    )
    words = (
        "A programming problem, and a whole Python 3 program that solves it. The program defines the function that the "
        f"problem asks for; where it asks for none, it reads standard input and prints.\n\n{shown}"
    )
    executor = p.problem("executor", PROBLEM)
    assert read(qwen_tokenizer, executor, p.open, p.trace(PLAN), p.ask) == f"{words}{tagged}\n\nProgram:\n```python\n"
    assert read(qwen_tokenizer, executor, p.ask_directly) == f"{words}Program:\n```python\n"
    assert read(qwen_tokenizer, p.problem("reward_model", PROBLEM), p.open, p.trace(PLAN)) == (
        f"<task>code</task>\n<type>code</type>\n<problem>\n{PROBLEM.text}\n</problem>\n"
        f"<tests>\n{PROBLEM.tests}\n</tests>\n{tagged}"
    )


def test_chatting_words(qwen_tokenizer):
    prompts = load("tracelift", model="qwen3_8b", words="chat").roles.prompts
    assert isinstance(prompts.planner, Chat) and isinstance(prompts.reward_model, Frame) and prompts.stop == ()
    p = Pieces(prompts, qwen_tokenizer)
    said = read(qwen_tokenizer, p.problem("executor", PROBLEM), p.open, p.trace(PLAN), p.ask)
    turn = said.partition("<|im_start|>user\n")[2].partition("<|im_end|>")[0]
    assert turn == (
        "Solve this programming problem with a whole Python 3 program. It defines the function that the problem asks "
        "for; where it asks for none, it reads standard input and prints. If a plan follows, use it.\n\n"
        f"Problem:\n{PROBLEM.text}\n\nExamples:\n{PROBLEM.tests}\n\n<reasoning> {PLAN} </reasoning>\n\n"
        "Give the program alone, in one fenced block."
    )
    planned = read(qwen_tokenizer, p.problem("planner", PROBLEM))
    assert planned.count(f"Problem:\n{PROBLEM.text}\n\nExamples:\n{PROBLEM.tests}") == 1


@pytest.mark.parametrize(
    "said",
    [
        f"{PROGRAM}\n```",  # the executor's prompt opened the fence, and the stop string may be in the answer or not
        PROGRAM,
        f"Here it is:\n\n```python\n{PROGRAM}\n```\nIt adds.",
    ],
)
def test_the_program_behind_these_words_is_found(said):
    assert PROBLEM.oracle is not None
    program = program_of(said, PROBLEM.oracle)
    assert program is not None and program.source.strip() == PROGRAM and program.inputs == ("1 2\n",)


def test_every_problem_fits_but_one(shared_data, qwen_tokenizer):
    """MBPP's 493 shows a list of 1,779 tokens."""
    roles = load("tracelift", task="mbpp").roles
    problems = [*HumanEval(str(shared_data / "humaneval" / "HumanEval.jsonl.gz")).problems("test")]
    for split in ("train", "test"):
        problems += Mbpp(str(shared_data / "mbpp" / "mbpp.jsonl")).problems(split)
    pieces, sizes = Pieces(roles.prompts, qwen_tokenizer), Sizes(roles.prompt_tokens, roles.answer_tokens)
    assert len(problems) == 164 + 374 + 500
    left_out = [p.problem_id for p in problems if not encode_problem(pieces, sizes, 0, p, programs=True)]
    assert left_out == ["mbpp/493"]


# ---------------------------------------------------------------------------------------------------------- end to end


@pytest.mark.slow
def test_both_arms_train_on_mbpp_and_are_evaluated_side_by_side(shared_data, tmp_path, capsys):
    """All that a run does, with tiny random weights in bfloat16: what they write is hardly ever a program."""
    try:
        Bubblewrap().close()
    except UserError as error:
        pytest.skip(str(error))
    folder = write_models(tmp_path)
    rows = (shared_data / "mbpp" / "mbpp.jsonl").read_text().splitlines()
    few = [line for line in rows if json.loads(line)["task_id"] in (*range(601, 609), 11, 12)]
    (folder / "mbpp.jsonl").write_text("\n".join(few))
    small = [f"BASE={folder}/base", f"MBPP={folder}/mbpp.jsonl", "BATCH=4", "ACCUMULATE=2", "STEPS=2"]
    small += ["planner/Sampling.max_tokens=6", "executor/Sampling.max_tokens=8", "Evaluation.problems=2"]
    small += ["Evaluation.batch_size=2", "MeshConfig.fsdp=1"]
    for arm in ARMS:
        given = [*small, *[f"GRADER={folder}/reward_model"] * (arm == "tracelift")]
        flags = [f"--gin_file={file}" for file in files(arm, "mbpp")] + [f"--gin.{one}" for one in given]
        run("train", *flags, f"--run_dir={folder / arm}")
        rows = [row for row in metrics(folder / arm) if "reward/mean" in row]
        assert [row["step"] for row in rows] == [1, 2]
        assert all(row["judging/infrastructure"] == 0 for row in rows)
        assert all((row["reward/grade"] > 0) == (arm == "tracelift") for row in rows)
        record = json.loads((folder / arm / "traces" / "step_000002.jsonl").read_text().splitlines()[0])
        assert len(record["outcomes"]) == 4 and record["reference"] == ""
    capsys.readouterr()
    run("eval", *(f"--run_dir={folder / arm}" for arm in ARMS))
    assert "2 held-out problems" in capsys.readouterr().out
