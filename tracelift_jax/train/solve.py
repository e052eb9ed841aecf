"""`tracelift solve`: a planner, its executor and its reward model in a person's hands."""

import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any

import jax
import numpy as np
from jax import Array
from rich.console import Console

from tracelift_jax.checked import require
from tracelift_jax.errors import UserError
from tracelift_jax.groups.schema import DIMENSIONS
from tracelift_jax.parallel.hosts import place_batch
from tracelift_jax.parallel.jitted import jitted
from tracelift_jax.parallel.mesh import batch_shards
from tracelift_jax.rollout.batch import PromptBatch, Weights
from tracelift_jax.rollout.judging import Judge, ProgramJudge
from tracelift_jax.rollout.records import body_text
from tracelift_jax.rollout.solve import Answers, Solved, solve, solving_setup
from tracelift_jax.tasks.oracle import Tests
from tracelift_jax.tasks.outcome import Outcome, outcome_of
from tracelift_jax.tasks.problem import Oracle, Problem, Task
from tracelift_jax.tasks.programs import program_of
from tracelift_jax.text.numbers import Number, number_of
from tracelift_jax.text.prompts import ROLES
from tracelift_jax.text.spans import GOOD, Tokens
from tracelift_jax.train.checkpoint import find_run
from tracelift_jax.train.data import eval_batches
from tracelift_jax.train.planner_loop import Train, planner_weights, trained_planner
from tracelift_jax.train.roles import Loaded, load_roles
from tracelift_jax.train.solution import Found, Graded, Said, TraceFound, show, show_planner


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a person asks.

    Attributes:
        texts: problems; "-" stands for the lines of standard input.
        answers: a reference for each problem, or none at all; of programs what they print.
        samples: traces to draw for each, or None for one greedy trace. seed: of the samples.
        as_json: print one JSON object a problem, and nothing else.
    """

    texts: Sequence[str]
    answers: Sequence[str] = ()
    samples: int | None = None
    seed: int | None = None
    as_json: bool = False


def run_solve(load: Callable[[Sequence[str]], Train], files: Sequence[str], run_dir: str | None, asked: Asked) -> None:
    """Solves problems and prints what comes of it.

    Args:
        load: reads gin files into the experiment, with the command line's bindings on top.
        files: of an untrained planner; or run_dir: of a trained one, whose newest checkpoint is used.
        asked: the problems.

    Raises:
        UserError: a problem, an answer or a number is not usable, or there is no such planner.
    """
    require(asked.samples is None or asked.samples >= 1, f"--samples must be at least 1, got {asked.samples}")
    require(asked.seed is None or asked.samples is not None, "--seed changes nothing without --samples=N")
    texts = _texts(asked)
    # Whatever is said while loading is not the answer, and standard output is for the answer alone.
    with contextlib.redirect_stdout(sys.stderr), _waiting("loading"):
        config = load([str(find_run(run_dir)[0])] if run_dir else files)
        if config.roles.executor_server:
            raise UserError(
                "tracelift solve asks an executor on the device; --gin.Roles.executor_server=None takes the base"
            )
        loaded = load_roles(config.roles, config.loss.normalize)
        problems = _problems(texts, asked, loaded)
        encoded = [_encode(loaded, row, problem) for row, problem in enumerate(problems)]
        step, weights = _planner(config, loaded, run_dir)
    found = _solve(config, loaded, weights, asked, problems, encoded)
    if asked.as_json:
        for one in found:
            print(json.dumps({**dataclasses.asdict(one), "step": step, "weights": loaded.fingerprints}), flush=True)
        return
    who = f"{run_dir} after {step} steps" if run_dir else "untrained"
    sampling = config.roles.planner
    how = "greedy" if asked.samples is None else f"{asked.samples} traces at temperature {sampling.temperature:g}"
    show_planner(f"{who}, {how}")
    for one in found:
        show(one, graded=loaded.setup.reward_model is not None)


def _waiting(what: str) -> contextlib.AbstractContextManager[Any]:
    """A sign of life on a terminal; standard output is for the answer."""
    return Console(stderr=True).status(what)


def _texts(asked: Asked) -> list[str]:
    """The problems asked."""
    texts: list[str] = []
    for text in asked.texts:
        texts += _lines_of_input() if text == "-" else [text]
    require(bool(texts), 'tracelift solve: no problem; give "..." or, for one a line from standard input, -')
    for number, text in enumerate(texts, 1):
        require(bool(text.strip()), f"problem {number} of {len(texts)} is empty")
        require(_is_utf8(text), f"problem {number} of {len(texts)} is not UTF-8")
    if asked.answers and len(asked.answers) != len(texts):
        raise UserError(
            f"--answer was given {len(asked.answers)} times for {len(texts)} problems; give one each, or none"
        )
    return [text.strip() for text in texts]


def _problems(texts: Sequence[str], asked: Asked, loaded: Loaded) -> list[Problem]:
    """The problems with their references, "" where there are none; that of a program is what it prints."""
    references = [answer.strip() for answer in asked.answers] or [""] * len(texts)
    numbered = list(enumerate(zip(texts, references, strict=True)))
    for answer in map(str.strip, asked.answers):
        require(_is_utf8(answer), f"--answer={answer!r} is not UTF-8")
        require(loaded.programs or bool(number_of(answer).found), f"--answer={answer}: no number in it")
    if not loaded.programs:
        return [Problem(f"asked/{row}", text, answer) for row, (text, answer) in numbered]
    # A world with an oracle is one of arithmetic, and so is its reward model; see `tasks/dial_code.py`.
    rubric = "math" if isinstance(loaded.roles.task, Oracle) else "code"
    return [
        Problem(
            problem_id=f"asked/{row}",
            text=text,
            answer=answer,
            task_type=rubric,
            task_name=rubric,
            answer_kind="program",
            oracle=Tests(inputs=("",), outputs=(answer,)),
        )
        for row, (text, answer) in numbered
    ]


def _lines_of_input() -> list[str]:
    try:
        return list(sys.stdin)
    except UnicodeDecodeError as error:
        raise UserError(f"standard input is not {error.encoding.upper()} ({error.reason})") from error


def _is_utf8(text: str) -> bool:
    """Whether `text` came in as UTF-8; Python keeps other bytes of a command line as lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _planner(config: Train, loaded: Loaded, run_dir: str | None) -> tuple[int | None, Weights]:
    """The step of a run's newest checkpoint and its planner; without a run the untrained one."""
    if run_dir:
        return trained_planner(config, loaded, run_dir)
    trainable, frozen = loaded.trainable(config.seed)
    return None, planner_weights(loaded, frozen, trainable)


def _encode(loaded: Loaded, row: int, problem: Problem) -> PromptBatch:
    """A problem as in training.

    Raises:
        UserError: it does not fit.
    """
    encoded = loaded.encode()(row, problem)
    if encoded is not None:
        return encoded
    pieces, roles = loaded.pieces, loaded.roles
    what, field = f"problem {row + 1}", "prompt_tokens"
    size = max(len(pieces.problem(role, problem)) for role in ROLES)
    if size <= roles.prompt_tokens:
        what, field, size = f"the answer to problem {row + 1}", "answer_tokens", len(pieces.answer(problem.answer))
    room = getattr(roles, field)
    raise UserError(f"{what} takes {size} tokens, and Roles.{field} is {room}; raise it: --gin.Roles.{field}={size}")


def _solve(
    config: Train,
    loaded: Loaded,
    weights: Weights,
    asked: Asked,
    problems: Sequence[Problem],
    encoded: Sequence[PromptBatch],
) -> Iterator[Found]:
    """Solves the problems in batches of one shape, with about as many traces at a time as an evaluation has."""
    setup = solving_setup(loaded.setup, asked.samples)
    run = jitted(solve, setup, bool(asked.answers) and not loaded.programs)
    shards = batch_shards(loaded.mesh)
    most = max(config.evaluation.batch_size // setup.traces // shards, 1)
    size = min(most, -(-len(problems) // shards)) * shards
    key: Array = jax.random.key(asked.seed or 0)
    for number, (batch, rows, real) in enumerate(eval_batches(encoded, lambda _, arrays: arrays, size)):
        with _waiting("solving" if number else "compiling and solving"):
            placed = place_batch(batch, loaded.mesh)
            done = jax.device_get(run(loaded.text, weights, placed, jax.random.fold_in(key, number)))
        for b in np.nonzero(real)[0]:
            yield _found(done, int(b), problems[int(rows[b])], loaded)


# --- From arrays to words ---------------------------------------------------------------------------------------------


def _ids(tokens: Tokens, *index: int) -> list[int]:
    return np.asarray(tokens.ids[index])[np.asarray(tokens.valid[index])].tolist()


def _found(done: Solved, b: int, problem: Problem, loaded: Loaded) -> Found:
    """Row `b` of a batch on the host."""
    without = _said(done.direct, loaded, problem, b)
    traces = tuple(_trace(done, b, g, problem, loaded, without) for g in range(done.judgement.shape[1]))
    return Found(problem.text, problem.answer or None, without, traces)


def _trace(done: Solved, b: int, g: int, problem: Problem, loaded: Loaded, without: Said) -> TraceFound:
    written = _ids(done.traces, b, g)
    body = body_text(loaded.tokenizer.decode(written), loaded.roles.prompts.close)
    graded = None
    if done.grades is not None:
        labels = [float(label) for label in done.grades.rubric[b, g]]
        rubric = dict(zip(DIMENSIONS["code" if problem.task_name == "code" else "math"], labels, strict=True))
        graded = Graded(rubric, float(done.grades.total[b, g]), float(done.grades.score[b, g]))
    answer = _said(done.answers, loaded, problem, b, g)
    return TraceFound(
        reasoning=body.strip(),
        malformed=_malformed(int(done.judgement[b, g]), bool(done.ended[b, g]), len(written), body, loaded),
        faithful=_faithful(loaded.roles.task, problem, body),
        answer=answer,
        uplift=_gained(answer, without) if done.uplift is None else float(done.uplift[b, g]),
        grade=graded,
    )


def _gained(answer: Said, without: Said) -> float | None:
    """The uplift of programs, one against one, as in a run's evaluation; None without a reference."""
    return None if answer.right is None or without.right is None else float(answer.right) - float(without.right)


def _malformed(judgement: int, ended: bool, tokens: int, body: str, loaded: Loaded) -> str | None:
    """What is wrong with a trace's form."""
    prompts = loaded.roles.prompts
    if judgement == GOOD:
        return None
    if not judgement:
        return f"ends without {prompts.close}" if ended else f"no {prompts.close} within {tokens} tokens"
    return f"a second {prompts.open} in it" if body.strip() else "empty"


def _faithful(task: Task, problem: Problem, body: str) -> bool | None:
    if not isinstance(task, Oracle):
        return None
    try:
        return task.faithful(problem, body)
    except UserError:  # in words that its oracle does not know
        return None


def _said(answers: Answers, loaded: Loaded, problem: Problem, *index: int) -> Said:
    text = loaded.tokenizer.decode(_ids(answers.tokens, *index)).strip()
    if problem.oracle is not None:
        return _ran(text, problem.oracle, loaded.judge)
    return Said(
        text=text,
        number=number_text(jax.tree.map(lambda x: x[index], answers.number)),
        right=None if answers.right is None else bool(answers.right[index]),
        likelihood=None if answers.likelihood is None else float(answers.likelihood[index]),
    )


def _ran(text: str, tests: Tests, judge: Judge) -> Said:
    """What the program in an answer prints when it is run with no input.

    Raises:
        UserError: the sandbox failed.
    """
    assert isinstance(judge, ProgramJudge)
    program = program_of(text, tests)
    if program is None:
        return Said(text, None, False if tests.outputs[0] else None, None, str(Outcome.NO_PROGRAM))
    (ran,) = judge.run(program)
    outcome = outcome_of(ran)
    if outcome is Outcome.INFRASTRUCTURE:
        raise UserError(f"sandbox: {ran.error}")
    right = outcome_of(ran, tests.outputs[0]) is Outcome.PASSED if tests.outputs[0] else None
    return Said(text, ran.stdout.strip(), right, None, str(outcome))


def number_text(number: Number) -> str | None:
    """One number on the host in lowest terms, "7" or "-3/4"; None where none was found."""
    if not number.found:
        return None
    over, under = (sum(int(d) * 10**n for n, d in enumerate(x)) for x in (number.numerator, number.denominator))
    return str(Fraction(-over if number.negative else over, under))
