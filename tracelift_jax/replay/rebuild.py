"""From the records of a step to a rollout: what the texts and tokens say, by the readers that the run had."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from tracelift_jax.errors import UserError
from tracelift_jax.models import build
from tracelift_jax.parallel.jitted import jitted
from tracelift_jax.replay.read import Placed, Record
from tracelift_jax.rollout.batch import Text, make_text
from tracelift_jax.rollout.elsewhere import executed_of
from tracelift_jax.rollout.records import body_text
from tracelift_jax.rollout.result import Rollout, Uplift
from tracelift_jax.rollout.reward_config import CodeRewardConfig
from tracelift_jax.tasks.outcome import Outcome
from tracelift_jax.tasks.verdict import FAILED, OK, WRONG
from tracelift_jax.tasks.verify import verify
from tracelift_jax.text.numbers import Number, equal, number_of, read_number
from tracelift_jax.text.prompts import Pieces
from tracelift_jax.text.spans import GOOD, BodyAutomaton, Tokens, pad
from tracelift_jax.text.tokenizer import TokenBytes, Tokenizer
from tracelift_jax.train.roles import Roles

_CHUNK = 512
"""Answers that are read together, so that one function is compiled for all steps."""
_ROUND = 512
"""Vocabularies are rounded up to so many rows, for the same reason."""


def read_answers(table: TokenBytes, ids: Array, valid: Array, references: Number) -> Array:
    """bool [N], whether answers [N, A] say their references, as `rollout/execute.py` judges them."""
    return equal(read_number(ids, valid, table), references)


def read_form(body: BodyAutomaton, ids: Array, valid: Array) -> tuple[Array, Array]:
    """bool [B, G] each, whether traces [B, G, R] are well formed, and whether they are closed."""
    state = body.automaton.run(ids, valid)[..., -1]
    return jnp.asarray(body.judgement)[state] == GOOD, jnp.asarray(body.automaton.accepting)[state]


@dataclasses.dataclass(frozen=True)
class Said:
    """What a record's tokens and texts say; fields are named as in the record.

    Attributes:
        judged: verdicts of the answers, before the rule for malformed traces. alone: those of answers without
            reasoning, or None where none were given in this step or none can be judged from the record.
    """

    reasoning: str
    well_formed: bool
    answers: list[str | None]
    without_answers: list[str | None]
    judged: list[int]
    alone: list[int] | None


@dataclasses.dataclass(frozen=True)
class Rebuilt:
    """One step.

    Attributes:
        said: [B][G]. rollout: as the run had it before it was settled, on the host. closed: bool [B, G].
    """

    said: list[list[Said]]
    rollout: Rollout
    closed: np.ndarray


class Rebuilding:
    """Reads records of one run."""

    def __init__(self, roles: Roles):
        """Reads the tokenizer; no weights.

        Raises:
            UserError: it cannot be used.
        """
        self._roles, self._reward = roles, roles.reward
        writers = build.folders(roles.planner_model or roles.base, roles.executor_model or roles.base)
        self.tokenizer = Tokenizer.load(build.find(roles.tokenizer or roles.base.path), *writers)
        self.pieces = Pieces(roles.prompts, self.tokenizer)
        self._texts: dict[int, Text] = {}
        self._on_device = roles.executor_server is None and not isinstance(self._reward, CodeRewardConfig)
        self._read_answers, self._read_form = jitted(read_answers), jitted(read_form)

    def __call__(self, groups: Sequence[Sequence[Placed]]) -> Rebuilt:
        """Raises UserError where a record does not fit the run's configuration."""
        text = self._text(groups)
        placed = [one for group in groups for one in group]
        rows, traces = [record for _, record in placed], len(groups[0])
        for where, record in placed:
            self._check(record, where)
        lead = (len(groups), traces)
        tokens = self._traces(rows, lead)
        formed, closed = jax.device_get(self._read_form(text.body, tokens.ids, tokens.valid))
        judged, alone = self._verdicts(text, rows), self._alone(text, rows)
        decode, close = self.tokenizer.decode, self._roles.prompts.close
        said = [
            Said(
                reasoning=body_text(decode(record.trace_tokens), close),
                well_formed=bool(formed.flat[number]),
                answers=self._texts_of(record.answer_tokens, record.answers),
                without_answers=self._texts_of(record.without_tokens, record.without_answers),
                judged=judged[number],
                alone=alone[number],
            )
            for number, record in enumerate(rows)
        ]
        rollout = self._rollout(rows, said, tokens, formed, lead)
        return Rebuilt([said[begin : begin + traces] for begin in range(0, len(said), traces)], rollout, closed)

    def _text(self, groups: Sequence[Sequence[Placed]]) -> Text:
        """Tables with a row for every token in the records; a model may draw ids that its tokenizer lacks."""
        held = (record for group in groups for _, record in group)
        lists = ([one.trace_tokens, *(one.answer_tokens or ()), *(one.without_tokens or ())] for one in held)
        most = max((token for row in lists for tokens in row for token in tokens), default=0)
        size = -(-max(most + 1, len(self.tokenizer)) // _ROUND) * _ROUND
        if size not in self._texts:
            self._texts[size] = jax.device_put(make_text(self.pieces, size))
        return self._texts[size]

    def _check(self, record: Record, where: str) -> None:
        reward, roles = self._reward, self._roles
        first = 1 + (reward.repeats if reward.uplift == "sampled" else 0)
        if len(record.verdicts) not in (first, first + reward.adaptive):
            raise UserError(f"{where}: {len(record.verdicts)} verdicts, and the run's configuration asks for {first}")
        if len(record.trace_tokens) > roles.planner.max_tokens:
            raise UserError(f"{where}: trace_tokens: more than Sampling.max_tokens = {roles.planner.max_tokens}")
        if (record.answer_tokens is None) != (roles.executor_server is not None):
            raise UserError(f"{where}: answer_tokens: there are some exactly where the executor is no server")
        for tokens in [*(record.answer_tokens or ()), *(record.without_tokens or ())]:
            if len(tokens) > roles.executor.max_tokens:
                raise UserError(f"{where}: an answer has more tokens than {roles.executor.max_tokens}")
        if isinstance(reward, CodeRewardConfig) and (record.outcomes is None or record.tests is None):
            raise UserError(f'{where}: no "outcomes" or no "tests", though answers are programs')

    def _texts_of(self, tokens: list[list[int]] | None, recorded: list[str | None]) -> list[str | None]:
        """Texts by their tokens; of a server's answers there is nothing else than the texts."""
        return recorded if tokens is None else [self.tokenizer.decode(answer) for answer in tokens]

    def _traces(self, rows: Sequence[Record], lead: tuple[int, int]) -> Tokens:
        padded = pad([row.trace_tokens for row in rows], self._roles.planner.max_tokens, 0)
        return Tokens(padded.ids.reshape(*lead, -1), padded.valid.reshape(*lead, -1))

    def _verdicts(self, text: Text, rows: Sequence[Record]) -> list[list[int]]:
        if isinstance(self._reward, CodeRewardConfig):
            return [[_verdict(outcome) for outcome in row.outcomes or ()] for row in rows]
        return self._judge(text, rows, [row.answer_tokens for row in rows], [row.answers for row in rows])

    def _alone(self, text: Text, rows: Sequence[Record]) -> list[list[int] | None]:
        """Programs without reasoning leave no outcomes."""
        if isinstance(self._reward, CodeRewardConfig):
            return [None] * len(rows)
        texts = [row.without_answers for row in rows]
        judged = self._judge(text, rows, [row.without_tokens for row in rows], texts)
        return [verdicts if answers else None for verdicts, answers in zip(judged, texts, strict=True)]

    def _judge(
        self,
        text: Text,
        rows: Sequence[Record],
        tokens: Sequence[list[list[int]] | None],
        texts: Sequence[list[str | None]],
    ) -> list[list[int]]:
        """Verdicts on answers, by the device's reader where the run had that, else by the exact verifier."""
        if not self._on_device:
            return [
                [FAILED if said is None else verify(said, row.reference) for said in answers]
                for row, answers in zip(rows, texts, strict=True)
            ]
        flat = [answer for answers in tokens for answer in answers or ()]
        whose = [row.reference for row, answers in zip(rows, tokens, strict=True) for _ in answers or ()]
        right = iter(self._right(text, flat, whose))
        return [[OK if next(right) else WRONG for _ in answers or ()] for answers in tokens]

    def _right(self, text: Text, answers: Sequence[list[int]], references: Sequence[str]) -> list[bool]:
        known = {reference: number_of(reference) for reference in set(references)}
        out: list[bool] = []
        for begin in range(0, len(answers), _CHUNK):
            some, whose = answers[begin : begin + _CHUNK], [known[one] for one in references[begin : begin + _CHUNK]]
            padded = pad([*some, *[[]] * (_CHUNK - len(some))], self._roles.executor.max_tokens, 0)
            whose += [whose[0]] * (_CHUNK - len(whose))
            stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *whose)
            right = np.asarray(self._read_answers(text.table, padded.ids, padded.valid, stacked))
            out += right[: len(some)].tolist()
        return out

    def _rollout(
        self, rows: Sequence[Record], said: Sequence[Said], traces: Tokens, formed: Any, lead: tuple[int, int]
    ) -> Rollout:
        def column(values: Sequence[Any], dtype: Any = np.float32) -> Any:
            array = np.array(values, dtype)
            return array.reshape(*lead, *array.shape[1:])

        sampled = self._reward.uplift == "sampled"
        width = 1 + self._reward.repeats * sampled + self._reward.adaptive
        with_counts = [_counts(one.judged[1:]) if sampled else [0, 0] for one in said]
        without = [
            row.without_counts if one.alone is None else _counts(one.alone) for row, one in zip(rows, said, strict=True)
        ]
        zeros, nothing = column([0.0] * len(rows)), Tokens(column([[]] * len(rows)), column([[]] * len(rows)))
        gained = Uplift(
            value=zeros,
            ok=column([ok for ok, _ in with_counts], np.int32),
            trials=column([trials for _, trials in with_counts], np.int32),
            baseline_ok=column([ok for ok, _ in without], np.int32),
            baseline_trials=column([trials for _, trials in without], np.int32),
            baseline_answers=nothing,
            likelihood=column([row.likelihood for row in rows]),
            baseline_likelihood=column([row.baseline_likelihood for row in rows]),
        )
        return Rollout(
            traces=traces,
            logprobs=zeros,
            well_formed=formed,
            answers=nothing,
            verdicts=column([[*one.judged, *[FAILED] * (width - len(one.judged))] for one in said], np.int8),
            uplift=gained,
            rubric=column([row.rubric for row in rows]),
            total=column([row.total for row in rows]),
            score=zeros,
            reward=zeros,
            advantage=zeros,
            counted=column([True] * len(rows), bool),  # batches of training are always full
            executed=self._executed(rows, lead),
        )

    def _executed(self, rows: Sequence[Record], lead: tuple[int, int]) -> Any:
        if not isinstance(self._reward, CodeRewardConfig):
            return None
        first = [(row.outcomes and row.outcomes[0], row.tests and row.tests[0]) for row in rows]
        codes = [(Outcome(outcome) if outcome else Outcome.INFRASTRUCTURE).code for outcome, _ in first]
        passed, total = zip(*(tests or [0, 0] for _, tests in first), strict=True)

        def column(values: Sequence[int]) -> np.ndarray:
            return np.array(values, np.int32).reshape(lead)

        return executed_of((column(passed), column(total), column(codes)), self._reward)


def _verdict(outcome: str | None) -> int:
    return FAILED if outcome is None else Outcome(outcome).verdict


def _counts(verdicts: Sequence[int]) -> list[int]:
    """Right and judged answers."""
    return [verdicts.count(OK), len(verdicts) - verdicts.count(FAILED)]
