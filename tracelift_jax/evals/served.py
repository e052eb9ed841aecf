"""Executors on servers, in an evaluation."""

import dataclasses
import itertools

from tracelift_jax.evals.executors import Asked, Candidate, Reasoning, Said
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
        takes_tokens: whether it reads what a planner wrote to the letter, as in training.
    """

    served: Served
    pieces: Pieces
    sampling: Sampling
    takes_tokens: bool

    @property
    def fingerprint(self) -> str:
        """A server shows no weights: this is its address and the model's name."""
        return str(self.served.server)

    def answer(self, asked: Asked) -> list[list[Said]]:
        """[B][M] answers; those that did not come are None.

        Raises:
            UserError: the server refuses what it is asked, or too many answers did not come.
        """
        sampling = dataclasses.replace(self.sampling, temperature=0.0) if asked.greedy else self.sampling
        shown: list[list[str | None]] = [[None] for _ in asked.problems]
        if asked.reasoning is not None:
            shown = [[self._tagged(one) for one in rows] for rows in asked.reasoning]
        seeds = (draw_seed(asked.seed, number) for number in itertools.count())
        questions = [
            question(self.served.server, self.pieces, problem, text, asked.samples, next(seeds))
            for problem, texts in zip(asked.problems, shown, strict=True)
            for text in texts
        ]
        told = iter(self.served.ask(questions, sampling))
        return [[Said(next(told)) for _ in texts] for texts in shown]

    def _tagged(self, reasoning: Reasoning) -> str:
        pieces = self.pieces
        if self.takes_tokens and reasoning.tokens:
            return pieces.tokenizer.decode([*pieces.open, *reasoning.tokens])
        return pieces.prompts.open + pieces.trace_text(reasoning.text)


def resident_server(loaded: Loaded) -> Candidate:
    """The executor of training, where it is on a server."""
    assert loaded.served is not None
    executor = RemoteExecutor(loaded.served, loaded.pieces, loaded.roles.executor, takes_tokens=True)
    return Candidate(RESIDENT, lambda problem: True, lambda: executor)


def served_executor(config: ServedExecutor, resident: Loaded) -> Candidate:
    """An executor that training never saw.

    Raises:
        UserError: its tokenizer cannot be used.
    """
    prompts = config.prompts or resident.roles.prompts
    tokenizer = Tokenizer.load(build.find(config.tokenizer)) if config.tokenizer else resident.tokenizer
    pieces, sampling = Pieces(prompts, tokenizer), config.sampling or resident.roles.executor
    executor = RemoteExecutor(Served(config.server, prompts.stop), pieces, sampling, takes_tokens=False)
    return Candidate(config.name, lambda problem: True, lambda: executor)
