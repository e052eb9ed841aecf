"""`tracelift solve`: what is printed is what each role, reading flat and alone, makes of the problem."""

import contextlib
import dataclasses
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import ROOT, TASK, command, run, subprocess_environment, write_gin, write_models

from tracelift_jax import config, gin_config
from tracelift_jax.groups.schema import MATH_DIMENSIONS
from tracelift_jax.rollout.batch import Weights
from tracelift_jax.rollout.rollout import sample_traces
from tracelift_jax.tasks.dial import DialTask
from tracelift_jax.tasks.problem import Problem
from tracelift_jax.text.numbers import number_of
from tracelift_jax.text.tokenizer import Tokenizer
from tracelift_jax.train.checkpoint import Checkpoints
from tracelift_jax.train.planner_loop import PlannerTraining, planner_weights
from tracelift_jax.train.roles import Loaded, load_roles
from tracelift_jax.train.run import RunDir
from tracelift_jax.train.solve import number_text

SHIPPED = ROOT / "experiments" / "dial" / "tracelift.gin"
SAMPLES = 8


@pytest.fixture(scope="module")
def gin(tmp_path_factory) -> Path:
    return write_gin(write_models(tmp_path_factory.mktemp("models")))


def printed(*arguments) -> str:
    """What `tracelift solve ARGUMENTS`, which must succeed, writes to standard output."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        run("solve", *arguments)
    return out.getvalue()


def refused(*arguments) -> str:
    """The one line that `tracelift solve ARGUMENTS` leaves with."""
    outcome = command("solve", *arguments)
    assert outcome.code == 2, outcome
    [line] = outcome.errors.splitlines()
    return line.removeprefix("tracelift: ")


class Flat:
    """The roles reading whole sequences from their first token: no tree, no cache, no batch."""

    def __init__(self, loaded: Loaded, weights: Weights, size: int):
        self.loaded, self.size = loaded, size
        setup = loaded.setup
        self._planner = jax.jit(partial(self._logits, setup.planner, weights.planner))
        self._executor = jax.jit(partial(self._logits, setup.executor, weights.executor))
        if weights.reward_model is not None:
            variables, self._heads = weights.reward_model
            self._hidden = jax.jit(partial(self._read, setup.reward_model, variables))

    @staticmethod
    def _read(model, variables, ids):
        return model.apply(variables, ids, jnp.ones_like(ids, bool))[0]

    def _logits(self, model, variables, ids):
        return model.apply(variables, self._read(model, variables, ids), method="logits")

    def _padded(self, ids):
        return np.array([[*ids, *[0] * (self.size - len(ids))]], np.int32)  # what follows is not seen

    def _write(self, read, ids, most: int, stop: str) -> list[int]:
        """The most likely continuation."""
        out: list[int] = []
        eos = self.loaded.tokenizer.eos_id
        while len(out) < most and eos not in out and stop not in self.loaded.tokenizer.decode(out):
            out.append(int(np.argmax(read(self._padded([*ids, *out]))[0, len(ids) + len(out) - 1])))
        return out

    def reasoning(self, problem: Problem) -> list[int]:
        pieces, roles = self.loaded.pieces, self.loaded.roles
        ids = [*pieces.problem("planner", problem), *pieces.open]
        return self._write(self._planner, ids, roles.planner.max_tokens, roles.prompts.close)

    def shown(self, written: list[int]) -> list[int]:
        """The reasoning as the other roles read it."""
        tokenizer, pieces = self.loaded.tokenizer, self.loaded.pieces
        closed = self.loaded.roles.prompts.close in tokenizer.decode(written)
        return [*pieces.open, *(t for t in written if tokenizer.bytes_of([t])), *(() if closed else pieces.close)]

    def asked(self, problem: Problem, written: list[int] | None) -> list[int]:
        """What the executor reads before it answers; without reasoning where `written` is None."""
        pieces = self.loaded.pieces
        behind = pieces.ask_directly if written is None else [*self.shown(written), *pieces.ask]
        return [*pieces.problem("executor", problem), *behind]

    def answer(self, problem: Problem, written: list[int] | None) -> str:
        roles = self.loaded.roles
        [stop] = roles.prompts.stop or ["no such string"]
        said = self._write(self._executor, self.asked(problem, written), roles.executor.max_tokens, stop)
        return self.loaded.tokenizer.decode(said).strip()

    def likelihood(self, problem: Problem, written: list[int] | None) -> float:
        ids, answer = self.asked(problem, written), self.loaded.pieces.answer(problem.answer)
        logits = np.asarray(self._executor(self._padded([*ids, *answer]))[0], np.float64)
        logits = logits[len(ids) - 1 :][: len(answer)] / self.loaded.roles.executor.temperature
        chances = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        return float(np.prod([chance[token] for chance, token in zip(chances, answer, strict=True)]))

    def grade(self, problem: Problem, written: list[int]) -> tuple[np.ndarray, float, float]:
        """METHOD's expected labels, total and score."""
        ids = [*self.loaded.pieces.problem("reward_model", problem), *self.shown(written)]
        last = np.asarray(self._hidden(self._padded(ids))[0, len(ids) - 1], np.float64)
        logits = np.einsum("d,rdc->rc", last, self._heads["dimensions"]) + self._heads["dimension_bias"]
        chances = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        expected = chances @ np.arange(5)
        total = 1 / (1 + np.exp(-(last @ self._heads["total"] + self._heads["total_bias"])))
        return expected, float(total), float(0.5 * (0.2 * expected / 4).sum() + 0.5 * total)


def flat(loaded: Loaded, size: int) -> Flat:
    trainable, frozen = loaded.trainable(0)
    return Flat(loaded, planner_weights(loaded, frozen, trainable), size)


def agree(flat: Flat, problem: Problem, written: list[int], found: dict, without: dict) -> None:
    """One trace of the JSON against the roles reading flat."""
    answer, grade = found["answer"], found["grade"]
    for said, reasoning in ((answer, written), (without, None)):
        assert said["text"] == flat.answer(problem, reasoning)
        np.testing.assert_allclose(said["likelihood"], flat.likelihood(problem, reasoning), atol=2e-5)
        assert said["number"] == number_text(number_of(said["text"]))
        assert said["right"] == (said["number"] == problem.answer)
    np.testing.assert_allclose(found["uplift"], answer["likelihood"] - without["likelihood"], atol=1e-6)
    expected, total, score = flat.grade(problem, written)
    assert tuple(grade["rubric"]) == MATH_DIMENSIONS
    np.testing.assert_allclose(list(grade["rubric"].values()), expected, atol=5e-4)
    np.testing.assert_allclose([grade["total"], grade["score"]], [total, score], atol=1e-4)


# --- The shipped models -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped() -> tuple[Sequence[Problem], list[dict]]:
    """Problems given to a real process through a pipe, with their answers, and the objects it prints."""
    problems = [DialTask().problems("test")[i] for i in range(3)]
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "tracelift_jax", "solve", f"--gin_file={SHIPPED}", "--json", "-"),
            *(f"--answer={problem.answer}" for problem in problems),
        ],
        cwd=ROOT,
        env=subprocess_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    out, errors = process.communicate("".join(f"{problem.text}\n" for problem in problems), timeout=300)
    assert process.returncode == 0, errors
    return problems, [json.loads(line) for line in out.splitlines()]


def test_the_shipped_models_solve_problems_of_the_dial_world(shipped):
    problems, found = shipped
    for problem, one in zip(problems, found, strict=True):
        assert (one["problem"], one["reference"], one["step"]) == (problem.text, problem.answer, None)
        [trace] = one["traces"]
        assert trace["reasoning"] == problem.reasoning
        assert trace["malformed"] is None
        assert trace["faithful"] is True
        assert trace["answer"]["number"] == problem.answer
        assert trace["answer"]["right"] is True
        assert trace["answer"]["likelihood"] > 0.9
        assert trace["uplift"] > 0.5
        assert trace["grade"]["score"] > 0.8


# --- Samples of tiny models -------------------------------------------------------------------------------------------

# Two problems at a time: the second batch has one problem and one row that only fills it.
BATCH = (f"--gin.Evaluation.batch_size={2 * SAMPLES}", "--gin.planner/Sampling.temperature=1.3")


@dataclasses.dataclass
class Sampled:
    """What was printed for three problems, and what was drawn for them: tokens of each trace."""

    loaded: Loaded
    problems: Sequence[Problem]
    found: list[dict]
    written: list[list[list[int]]]


@pytest.fixture(scope="module")
def sampled(gin) -> Sampled:
    problems = [TASK.problems("test")[i] for i in range(3)]
    answers = [f"--answer={problem.answer}" for problem in problems]
    arguments = (f"--gin_file={gin}", "--json", f"--samples={SAMPLES}", "--seed=3", *BATCH, *answers)
    out = printed(*arguments, *(problem.text for problem in problems))
    bindings = [flag.removeprefix("--gin.") for flag in BATCH]
    loaded = load_roles(gin_config.load(config.Train, [str(gin)], bindings).value.roles)
    trainable, frozen = loaded.trainable(0)
    draw = jax.jit(partial(sample_traces, dataclasses.replace(loaded.setup, traces=SAMPLES)))
    encoded = [loaded.encode()(row, problem) for row, problem in enumerate(problems)]
    written = []
    for number, rows in enumerate(([0, 1], [2, 2])):
        batch = jax.tree.map(lambda *x: np.stack(x), *(encoded[row] for row in rows))
        key = jax.random.fold_in(jax.random.key(3), number)
        tokens = draw(loaded.text, planner_weights(loaded, frozen, trainable), batch, key).tokens
        ids, valid = np.asarray(tokens.ids), np.asarray(tokens.valid)
        written += [[ids[b, g][valid[b, g]].tolist() for g in range(SAMPLES)] for b in range(len(set(rows)))]
    return Sampled(loaded, problems, [json.loads(line) for line in out.splitlines()], written)


def what_is_wrong(tokenizer: Tokenizer, written: list[int]) -> str | None:
    """What a trace of at most six tokens lacks, read from its text."""
    body, close, _ = tokenizer.decode(written).partition("</reasoning>")
    if not close:
        return "ends without </reasoning>" if written[-1] == tokenizer.eos_id else "no </reasoning> within 6 tokens"
    if not body.strip():
        return "empty"
    return "a second <reasoning> in it" if "<reasoning>" in body else None


@pytest.mark.slow
def test_samples_are_what_the_roles_make_of_them_reading_flat(sampled):
    alone = flat(sampled.loaded, 48)
    for problem, one, written in zip(sampled.problems, sampled.found, sampled.written, strict=True):
        assert one["problem"] == problem.text
        for tokens, trace in zip(written, one["traces"], strict=True):
            agree(alone, problem, tokens, trace, one["without"])
    texts = {trace["reasoning"] for one in sampled.found for trace in one["traces"]}
    assert len(texts) > SAMPLES  # they are samples
    right = {trace["answer"]["right"] for one in sampled.found for trace in one["traces"]}
    assert right == {True, False}


def test_what_is_wrong_with_a_trace_is_said(sampled):
    tokenizer, kinds = sampled.loaded.tokenizer, set()
    for one, written in zip(sampled.found, sampled.written, strict=True):
        for tokens, trace in zip(written, one["traces"], strict=True):
            body = tokenizer.decode(tokens).partition("</reasoning>")[0]
            assert trace["reasoning"] == body.strip()
            assert trace["malformed"] == what_is_wrong(tokenizer, tokens)
            assert trace["faithful"] is TASK.faithful(Problem("", one["problem"], ""), body)
            kinds.add(trace["malformed"])
    assert len(kinds) == 5


# --- A trained planner ------------------------------------------------------------------------------------------------


def answer_words(said: str) -> str:
    """An answer as a person is shown it."""
    number = number_text(number_of(said))
    if number is None:
        return f"{said} (no number)".strip()
    return said if said == number else f"{said} (read as {number})"


def test_a_run_solves_with_its_newest_checkpoint_and_grades_nothing_without_a_reward_model(gin, tmp_path):
    lines = [line for line in gin.read_text().splitlines() if "grader/" not in line and "reward_model" not in line]
    file = tmp_path / "ungraded.gin"
    file.write_text("\n".join([*lines, "config.RewardConfig.kind = 'exec_only'"]))
    experiment = gin_config.load(config.Train, [str(file)])
    loaded = load_roles(experiment.value.roles)
    training = PlannerTraining(experiment.value, loaded)
    run_dir = tmp_path / "run"
    RunDir(run_dir, experiment.value, experiment.operative).begin()
    checkpoints, rng, trained = Checkpoints(run_dir / "checkpoints"), np.random.default_rng(0), {}
    for step in (3, 7, 9):
        trained[step] = jax.tree.map(
            lambda x: jax.device_put(0.8 * rng.standard_normal(x.shape).astype(x.dtype), x.sharding),
            training.state.trainable,
        )
        state = dataclasses.replace(training.state, trainable=trained[step])
        checkpoints.save(step, state, training.host_state(), score=1.0 / step)
    checkpoints.close()
    shutil.rmtree(run_dir / "checkpoints" / "9" / "state")  # damaged, of which nothing is said on standard output

    first = TASK.problems("test")[0]
    strange = "Who turned the dial [bold]?"  # no sentence of the dial world, and no markup
    planner, *shown = printed(f"--run_dir={run_dir}", first.text, strange).split("\n\n")
    assert planner == f"planner     {run_dir} after 7 steps, greedy"
    alone = Flat(loaded, planner_weights(loaded, training.frozen, trained[7]), 48)
    untrained = flat(loaded, 48)
    for text, lines in zip((first.text, strange), map(str.splitlines, shown), strict=True):
        problem = Problem("", text, "")
        written = alone.reasoning(problem)
        assert written != untrained.reasoning(problem)
        body = loaded.tokenizer.decode(written).partition("</reasoning>")[0]
        expected = [f"problem     {text}", f"reasoning   {body.strip()}"]
        if wrong := what_is_wrong(loaded.tokenizer, written):
            expected.append(f"malformed   {wrong}")
        if text is first.text:
            expected.append(f"faithful    {'yes' if TASK.faithful(first, body) else 'no'}")
        expected.append(f"answer      {answer_words(alone.answer(problem, written))}")
        expected.append(f"without it  {answer_words(alone.answer(problem, None))}")
        expected.append("rubric      no reward model is configured (Roles.reward_model)")
        assert lines == expected


# --- Bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], 'tracelift solve: no problem; give "..." or, for one a line from standard input, -'),
        (["one", " \n"], "problem 2 of 2 is empty"),
        (["one", "caf\udce9"], "problem 2 of 2 is not UTF-8"),
        (["one", "--samples=0"], "--samples must be at least 1, got 0"),
        (["one", "--seed=1"], "--seed changes nothing without --samples=N"),
        (["one", "two", "--answer=1"], "--answer was given 1 times for 2 problems; give one each, or none"),
        (["one", "--answer=seven"], "--answer=seven: no number in it"),
    ],
)
def test_what_cannot_be_asked(gin, arguments, line):
    assert refused(f"--gin_file={gin}", *arguments) == line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (b"", 'tracelift solve: no problem; give "..." or, for one a line from standard input, -'),
        (b"one\n\ntwo\n", "problem 2 of 3 is empty"),
        (b"caf\xe9\n", "standard input is not UTF-8 (invalid continuation byte)"),
    ],
)
def test_what_cannot_be_read(gin, monkeypatch, text, line):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text), encoding="utf-8"))
    assert refused(f"--gin_file={gin}", "-") == line


def test_a_problem_that_does_not_fit(gin):
    line = refused(f"--gin_file={gin}", "The dial shows 7.", "Ann " * 40)
    size = int(line.split()[3])
    assert size > 30
    raise_it = f"raise it: --gin.Roles.prompt_tokens={size}"
    assert line == f"problem 2 takes {size} tokens, and Roles.prompt_tokens is 30; {raise_it}"
    line = refused(f"--gin_file={gin}", "The dial shows 7.", "--answer=1234")
    assert line.startswith("the answer to problem 1 takes ")
    assert "Roles.answer_tokens is 3" in line


def test_who_solves_must_be_said_once(gin, tmp_path):
    line = "tracelift solve: give --run_dir=D for a trained planner, or --gin_file=F for an untrained"
    assert refused("one") == line
    assert refused("one", f"--gin_file={gin}", f"--run_dir={tmp_path}") == line


def test_a_run_that_is_none(gin, tmp_path):
    assert refused("one", f"--run_dir={tmp_path}").startswith(f"{tmp_path}: holds no run (no config.gin)")
    loaded = gin_config.load(config.Train, [str(gin)])
    RunDir(tmp_path / "run", loaded.value, loaded.operative).begin()
    line = refused("one", f"--run_dir={tmp_path / 'run'}")
    assert line == f"{tmp_path / 'run'}: no checkpoint there; let the run train first"
