"""Executors on servers, in an evaluation."""

import dataclasses
import itertools

from tracelift_jax.evals.executors import Asked, Candidate, Said, show
from tracelift_jax.evals.experiment import RESIDENT, ServedExecutor
from tracelift_jax.models import build
from tracelift_jax.rollout.sample import Sampling
from tracelift_jax.rollout.served import Served, draw_seed, question
from tracelift_jax.text.prompts import Pieces
from tracelift_jax.text.tokenizer import Tokenizer
from tracelift_jax.train.roles import Loaded


@dataclasses.dataclass(frozen=True)
class RemoteExecutor:
    """An executor that is asked over HTTP.

    Attributes:
        served: the connection. pieces: its words. sampling: how it draws.
        longest: tokens of a reasoning with its tags, by the tokenizer of `pieces`.
        takes_tokens: whether it reads what a planner wrote to the letter, as in training.
    """

    served: Served
    pieces: Pieces
    sampling: Sampling
    longest: int
    takes_tokens: bool

    @property
    def fingerprint(self) -> str:
        """A server shows no weights; see `ExecutorServer.identity`."""
        return self.served.server.identity

    def answer(self, asked: Asked) -> list[list[Said]]:
        """[B][M] answers; those that did not come are None.

        Raises:
            UserError: the server refuses what it is asked, or too many answers did not come.
        """
        sampling = dataclasses.replace(self.sampling, temperature=0.0) if asked.greedy else self.sampling
        pieces, decode = self.pieces, self.pieces.tokenizer.decode
        shown: list[list[tuple[str | None, bool]]] = [[(None, False)] for _ in asked.problems]
        if asked.reasoning is not None:
            tagged = [[show(pieces, one, self.takes_tokens, self.longest) for one in rows] for rows in asked.reasoning]
            shown = [[(decode(tokens), cut) for tokens, cut in rows] for rows in tagged]
        numbers = itertools.count()
        questions = [
            question(self.served.server, pieces, problem, text, asked.samples, draw_seed(asked.seed, next(numbers)))
            for problem, rows in zip(asked.problems, shown, strict=True)
            for text, _ in rows
        ]
        told = iter(self.served.ask(questions, sampling))
        return [[Said(next(told), cut=cut) for _, cut in rows] for rows in shown]


def resident_server(loaded: Loaded, longest: int) -> Candidate:
    """The executor of training, where it is on a server."""
    assert loaded.served is not None
    executor = RemoteExecutor(loaded.served, loaded.pieces, loaded.roles.executor, longest, takes_tokens=True)
    return Candidate(RESIDENT, lambda problem: True, lambda: executor)


def served_executor(config: ServedExecutor, resident: Loaded, longest: int) -> Candidate:
    """An executor that training never saw.

    Raises:
        UserError: its tokenizer cannot be used.
    """
    prompts = config.prompts or resident.roles.prompts
    tokenizer = Tokenizer.load(build.find(config.tokenizer)) if config.tokenizer else resident.tokenizer
    pieces, sampling = Pieces(prompts, tokenizer), config.sampling or resident.roles.executor
    executor = RemoteExecutor(Served(config.server, prompts.stop), pieces, sampling, longest, takes_tokens=False)
    return Candidate(config.name, lambda problem: True, lambda: executor)
