"""`tracelift solve`: a planner, its executor and its reward model in a person's hands."""

import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import Array
from rich.console import Console

from tracelift_jax.checked import require
from tracelift_jax.errors import UserError
from tracelift_jax.groups.schema import MATH_DIMENSIONS
from tracelift_jax.parallel.mesh import batch_shards, place_batch
from tracelift_jax.rollout.batch import PromptBatch, Weights
from tracelift_jax.rollout.records import body_text
from tracelift_jax.rollout.solve import Answers, Solved, solve, solving_setup
from tracelift_jax.tasks.problem import Oracle, Problem, Task
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
        answers: a reference for each problem, or none at all.
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
    problems = _problems(asked)
    # Whatever is said while loading is not the answer, and standard output is for the answer alone.
    with contextlib.redirect_stdout(sys.stderr), _waiting("loading"):
        config = load([str(find_run(run_dir)[0])] if run_dir else files)
        if config.roles.executor_server:
            raise UserError(
                "tracelift solve asks an executor on the device; --gin.Roles.executor_server=None takes the base"
            )
        loaded = load_roles(config.roles, config.loss.normalize)
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


def _problems(asked: Asked) -> list[Problem]:
    """The problems asked, with their references, "" where there are none."""
    texts: list[str] = []
    for text in asked.texts:
        texts += _lines_of_input() if text == "-" else [text]
    require(bool(texts), 'tracelift solve: no problem; give "..." or, for one a line from standard input, -')
    for number, text in enumerate(texts, 1):
        require(bool(text.strip()), f"problem {number} of {len(texts)} is empty")
        require(_is_utf8(text), f"problem {number} of {len(texts)} is not UTF-8")
    answers = [answer.strip() for answer in asked.answers]
    if answers and len(answers) != len(texts):
        raise UserError(f"--answer was given {len(answers)} times for {len(texts)} problems; give one each, or none")
    for answer in answers:
        require(_is_utf8(answer) and bool(number_of(answer).found), f"--answer={answer}: no number in it")
    references = answers or [""] * len(texts)
    return [
        Problem(f"asked/{row}", text.strip(), answer)
        for row, (text, answer) in enumerate(zip(texts, references, strict=True))
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
    run = jax.jit(partial(solve, setup, bool(asked.answers)))
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
    traces = tuple(_trace(done, b, g, problem, loaded) for g in range(done.judgement.shape[1]))
    return Found(problem.text, problem.answer or None, _said(done.direct, loaded, b), traces)


def _trace(done: Solved, b: int, g: int, problem: Problem, loaded: Loaded) -> TraceFound:
    written = _ids(done.traces, b, g)
    body = body_text(loaded.tokenizer.decode(written), loaded.roles.prompts.close)
    graded = None
    if done.grades is not None:
        labels = [float(label) for label in done.grades.rubric[b, g]]
        rubric: dict[str, float] = dict(zip(MATH_DIMENSIONS, labels, strict=True))
        graded = Graded(rubric, float(done.grades.total[b, g]), float(done.grades.score[b, g]))
    return TraceFound(
        reasoning=body.strip(),
        malformed=_malformed(int(done.judgement[b, g]), bool(done.ended[b, g]), len(written), body, loaded),
        faithful=_faithful(loaded.roles.task, problem, body),
        answer=_said(done.answers, loaded, b, g),
        uplift=None if done.uplift is None else float(done.uplift[b, g]),
        grade=graded,
    )


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


def _said(answers: Answers, loaded: Loaded, *index: int) -> Said:
    return Said(
        text=loaded.tokenizer.decode(_ids(answers.tokens, *index)).strip(),
        number=number_text(jax.tree.map(lambda x: x[index], answers.number)),
        right=None if answers.right is None else bool(answers.right[index]),
        likelihood=None if answers.likelihood is None else float(answers.likelihood[index]),
    )


def number_text(number: Number) -> str | None:
    """One number on the host in lowest terms, "7" or "-3/4"; None where none was found."""
    if not number.found:
        return None
    over, under = (sum(int(d) * 10**n for n, d in enumerate(x)) for x in (number.numerator, number.denominator))
    return str(Fraction(-over if number.negative else over, under))
