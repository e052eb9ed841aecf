"""Executors: whoever answers problems, with reasoning or alone.

An evaluation knows executors by the protocol `Executor` alone: text in, text out, and what else the executor can tell.
`LocalExecutor` is a model on the mesh. One that lives behind a server has no likelihood and no verdicts of its own, and
answers None where the server failed. A `Candidate` is an executor before its turn, when it should take no room.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh

from tracelift_jax.evals.experiment import RESIDENT, ExecutorModel
from tracelift_jax.models import build
from tracelift_jax.models.fingerprint import fingerprint
from tracelift_jax.models.transformer import Transformer
from tracelift_jax.parallel.hosts import place_batch
from tracelift_jax.rollout.batch import PromptBatch, Sizes, Text, encode_problem, make_fixed, make_text, why_unjudged
from tracelift_jax.rollout.given import answer_given, executor_setup
from tracelift_jax.rollout.sample import Sampling
from tracelift_jax.tasks.problem import Problem
from tracelift_jax.text.prompts import Pieces
from tracelift_jax.text.spans import Tokens, pad
from tracelift_jax.text.tokenizer import Tokenizer
from tracelift_jax.train.roles import Loaded, Roles

SHORTEST = 64
"""Tokens that reasoning is padded to at least; then twice as many, and so on, so that few shapes are compiled."""


@dataclasses.dataclass(frozen=True)
class Reasoning:
    """A reasoning as it is passed on.

    Attributes:
        text: without tags.
        tokens: as the planner wrote them, the closing tag included, in the tokens of the resident tokenizer; None where
            it was given as text.
    """

    text: str
    tokens: tuple[int, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Asked:
    """A batch of questions.

    Attributes:
        problems: B of them. room: the size of a whole batch, B or more.
        reasoning: M for each problem, or None: the executor is asked directly.
        samples: n, answers behind each reasoning. greedy: the most likely answer.
        seed: of the samples, 31 bits.
    """

    problems: Sequence[Problem]
    room: int
    reasoning: Sequence[Sequence[Reasoning]] | None
    samples: int
    greedy: bool
    seed: int


@dataclasses.dataclass(frozen=True)
class Said:
    """What an executor answered behind one reasoning, or alone.

    Attributes:
        answers: n texts; None for one that did not come, which is a failure of the infrastructure and no wrong answer.
        tokens: their lengths, where they are known.
        read: the executor's own verdicts on its answers, where it has any: 1 right, 0 wrong.
        likelihood: the probability it gives to the canonical answer, where it can tell.
        cut: whether the reasoning was too long and lost its end.
    """

    answers: tuple[str | None, ...]
    tokens: tuple[int, ...] | None = None
    read: tuple[int, ...] | None = None
    likelihood: float | None = None
    cut: bool = False


class Executor(Protocol):
    """Whoever answers problems."""

    @property
    def fingerprint(self) -> str:
        """Tells one executor from another: of its weights, or its name on its server."""
        ...

    def answer(self, asked: Asked) -> list[list[Said]]:
        """[B][M] answers; without reasoning M is 1."""
        ...


@dataclasses.dataclass(frozen=True)
class Candidate:
    """An executor that can be had.

    Attributes:
        name: in records and reports.
        fits: whether it has room for a problem; one that does not fit all executors is left out for all.
        open: makes it ready; once it is dropped, its room is free again.
    """

    name: str
    fits: Callable[[Problem], bool]
    open: Callable[[], Executor]


def bucket(length: int) -> int:
    """The padded length of `length` tokens."""
    size = SHORTEST
    while size < length:
        size *= 2
    return size


def fill(rows: Sequence[Any], room: int) -> list[Any]:
    """`rows` and copies of the last one, `room` in all."""
    return [*rows, *[rows[-1]] * (room - len(rows))]


def stack(rows: Sequence[Any], room: int, mesh: Mesh) -> Any:
    """Trees of numpy arrays as one batch [room, ...] on the mesh."""
    return place_batch(jax.tree.map(lambda *leaves: np.stack(leaves), *fill(rows, room)), mesh)


def ragged(tokens: Sequence[Sequence[Sequence[int]]], room: int, pad_id: int, mesh: Mesh) -> Tokens:
    """[B][M] token lists as [room, M, T] on the mesh."""
    flat = [row for rows in tokens for row in rows]
    padded = pad(flat, bucket(max(map(len, flat))), pad_id)
    ids, valid = (x.reshape(len(tokens), -1, x.shape[-1]) for x in (padded.ids, padded.valid))
    return stack([Tokens(ids[b], valid[b]) for b in range(len(tokens))], room, mesh)


def same_words(a: Tokenizer, b: Tokenizer) -> bool:
    """Whether two tokenizers give every token the same bytes, so that one reads what the other has written."""
    tables = [tokenizer.token_bytes() for tokenizer in (a, b)]
    return all(
        np.array_equal(np.asarray(getattr(tables[0], name)), np.asarray(getattr(tables[1], name)))
        for name in ("data", "length")
    )


def show(pieces: Pieces, reasoning: Reasoning, takes_tokens: bool, longest: int) -> tuple[list[int], bool]:
    """A reasoning with both tags, and whether its end was cut to make it fit.

    Args:
        takes_tokens: whether a planner's own tokens are read, and not its text. longest: tokens, tags included.
    """
    body = list(reasoning.tokens) if reasoning.tokens and takes_tokens else pieces.trace(reasoning.text)
    if len(pieces.open) + len(body) <= longest:
        return [*pieces.open, *body], False
    room = longest - len(pieces.open) - len(pieces.close)
    return [*pieces.open, *body[:room], *pieces.close], True


def sizes_of(roles: Roles) -> Sizes:
    """Room for problems and answers."""
    return Sizes(roles.prompt_tokens, roles.answer_tokens)


def encode_asked(pieces: Pieces, sizes: Sizes, problem: Problem) -> tuple[PromptBatch, bool] | None:
    """A problem as arrays without B, and whether its answer is a number with room for it; None if it does not fit.

    Only such an answer has a likelihood, and a verdict of the reader on the device.
    """
    canonical = not why_unjudged(problem) and len(pieces.answer(problem.answer)) <= sizes.answer
    judged = problem if canonical else dataclasses.replace(problem, answer="0", answer_kind="number")
    encoded = encode_problem(pieces, sizes, 0, judged)
    return None if encoded is None else (encoded, canonical)


_answer = jax.jit(answer_given, static_argnames=("setup", "samples", "greedy"))


@dataclasses.dataclass(frozen=True)
class LocalExecutor:
    """A decoder on the mesh as executor.

    Attributes:
        tokenizer, pieces: its words. model, variables: its weights. text: tables over its vocabulary.
        sampling: how it draws. sizes: room for problems and answers. longest: tokens of a reasoning with its tags.
        mesh: where it lives. takes_tokens: whether the resident tokenizer is its own. fingerprint: of its weights.
    """

    tokenizer: Tokenizer
    pieces: Pieces
    model: Transformer
    variables: Any
    text: Text
    sampling: Sampling
    sizes: Sizes
    longest: int
    mesh: Mesh
    takes_tokens: bool
    fingerprint: str

    def answer(self, asked: Asked) -> list[list[Said]]:
        """[B][M] answers, drawn and read on the device."""
        encoded = [encode_asked(self.pieces, self.sizes, problem) for problem in asked.problems]
        batch = stack([one[0] for one in encoded if one], asked.room, self.mesh)
        shown = None
        if asked.reasoning is not None:
            pieces, takes, longest = self.pieces, self.takes_tokens, self.longest
            shown = [[show(pieces, one, takes, longest) for one in rows] for rows in asked.reasoning]
        tokens = None
        if shown is not None:
            tokens = ragged([[ids for ids, _ in rows] for rows in shown], asked.room, self.tokenizer.pad_id, self.mesh)
        setup = executor_setup(self.model, make_fixed(self.pieces), self.sampling)
        key: Array = jax.random.key(asked.seed)
        done = jax.device_get(
            _answer(setup, asked.samples, asked.greedy, self.text, self.variables, batch, tokens, key)
        )
        return [
            [
                self._said(done, b, m, canonical=bool(one and one[1]), cut=shown is not None and shown[b][m][1])
                for m in range(done.likelihood.shape[1])
            ]
            for b, one in enumerate(encoded)
        ]

    def _said(self, done: Any, b: int, m: int, canonical: bool, cut: bool) -> Said:
        answers = [
            np.asarray(done.tokens.ids[b, m, k])[np.asarray(done.tokens.valid[b, m, k])].tolist()
            for k in range(done.verdicts.shape[2])
        ]
        return Said(
            answers=tuple(self.tokenizer.decode(answer) for answer in answers),
            tokens=tuple(map(len, answers)),
            read=tuple(int(v) for v in done.verdicts[b, m]) if canonical else None,
            likelihood=float(done.likelihood[b, m]) if canonical else None,
            cut=cut,
        )


def resident_executor(loaded: Loaded, longest: int) -> Candidate:
    """The executor of training, which is on the mesh already."""
    roles = loaded.roles
    executor = LocalExecutor(
        tokenizer=loaded.tokenizer,
        pieces=loaded.pieces,
        model=loaded.setup.executor,
        variables={"params": loaded.executor.params},
        text=loaded.text,
        sampling=roles.executor,
        sizes=sizes_of(roles),
        longest=longest,
        mesh=loaded.mesh,
        takes_tokens=True,
        fingerprint=loaded.fingerprints["executor"],
    )
    return _candidate(RESIDENT, loaded.pieces, executor.sizes, lambda: executor)


def other_executor(config: ExecutorModel, resident: Loaded, longest: int) -> Candidate:
    """An executor with weights and words of its own; only its tokenizer is read before its turn.

    Raises:
        UserError: its tokenizer or, when it is opened, its weights cannot be used.
    """
    roles, folders = resident.roles, build.folders(config.model)
    tokenizer = Tokenizer.load(build.find(config.tokenizer or config.model.path), *folders)
    pieces = Pieces(config.prompts or roles.prompts, tokenizer)
    sizes = Sizes(config.prompt_tokens or roles.prompt_tokens, roles.answer_tokens)

    def load() -> LocalExecutor:
        shape = build.model_config(config.model, len(tokenizer))
        tokenizer.check_vocabulary(shape.vocab_size)
        params = build.load_base(config.model, shape, resident.mesh, roles.mesh)
        return LocalExecutor(
            tokenizer=tokenizer,
            pieces=pieces,
            model=Transformer(shape, resident.mesh),
            variables={"params": params},
            text=make_text(pieces, shape.vocab_size),
            sampling=config.sampling or roles.executor,
            sizes=sizes,
            longest=longest,
            mesh=resident.mesh,
            takes_tokens=same_words(tokenizer, resident.tokenizer),
            fingerprint=fingerprint(params),
        )

    return _candidate(config.name, pieces, sizes, load)


def _candidate(name: str, pieces: Pieces, sizes: Sizes, load: Callable[[], LocalExecutor]) -> Candidate:
    return Candidate(name, lambda problem: encode_asked(pieces, sizes, problem) is not None, load)
