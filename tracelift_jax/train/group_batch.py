"""Groups as arrays: which traces of a group are read, and how it is cut where it is too long.

A group's text is its framed problem, shared by all traces, and for each trace `open trace close`; white space around
problem, tests and trace does not count. The two live in segments with room of their own (`prompt_tokens`,
`trace_tokens`), so each can be too long:

    leave_out     a problem or trace longer than its room: the group is left out.
    cut_problem   the end of the tests and then of the problem's text is dropped (`Pieces.cut_problem`), whatever the
                  frame says behind it is kept. A trace longer than its room leaves the group out, for a trace that lost
                  its end cannot be graded.
    reference     problem and trace are one text, cut on the right at `prompt_tokens + trace_tokens`. A trace can lose
                  its end and is then graded at the last token that is left. Of a problem longer than its room the
                  rest begins the trace's segment, and a problem that leaves room takes no part of it: a trace has up
                  to `prompt_tokens + trace_tokens` tokens, and the arrays are as wide (see `narrow`).

Whether a group is left out depends on all its traces, drawn or not, so that it is in every epoch or in none.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import jax
import numpy as np
from jax import Array

from tracelift_jax.groups.schema import Group
from tracelift_jax.tasks.problem import Problem
from tracelift_jax.text.prompts import Pieces
from tracelift_jax.text.spans import Tokens, pad

TooLong = Literal["cut_problem", "leave_out", "reference"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GroupBatch:
    """Groups, the positive first.

    Attributes:
        problem: [B, P]. traces: [B, M, T], tags included.
        labels: int32 [B, M, 5]. totals: float32 [B, M].
        real: bool [B], False for groups that only fill a batch.
    """

    problem: Tokens
    traces: Tokens
    labels: Array | np.ndarray
    totals: Array | np.ndarray
    real: Array | np.ndarray


def encode_group(
    pieces: Pieces,
    prompt_tokens: int,
    trace_tokens: int,
    index: int,
    group: Group,
    rng: np.random.Generator | None = None,
    *,
    negatives: int | None = None,
    too_long: TooLong = "leave_out",
) -> GroupBatch | None:
    """One group as arrays without B.

    Args:
        pieces: of the prompts.
        prompt_tokens, trace_tokens: room for the framed problem (P) and for a trace with its tags (T).
        index: not used; the row that a stream counts.
        group: what to encode.
        rng: draws the positive and the negatives. None takes the first positive and the first negatives.
        negatives: how many, M - 1; None: all. See `members`.
        too_long: see the module.

    Returns:
        None where the group does not fit, or has no positive or no negative.
    """
    del index
    if not group.positives or not group.negatives:
        return None
    problem = Problem(
        group.problem_id,
        group.problem.strip(),
        answer="",
        task_type=group.task_type,
        task_name=group.rubric_name,
        tests=group.tests.strip(),
    )
    if too_long == "cut_problem":
        statement = pieces.cut_problem("reward_model", problem, prompt_tokens)
        if statement is None:
            return None
    else:
        statement = pieces.problem("reward_model", problem)
    pool = (*group.positives, *group.negatives)
    traces = [pieces.tagged(trace.reasoning.strip()) for trace in pool]
    if too_long == "reference":
        shared, rest = statement[:prompt_tokens], statement[prompt_tokens:]
        room = prompt_tokens + trace_tokens
        traces = [[*rest, *trace][: room - len(shared)] for trace in traces]
    else:
        shared, room = statement, trace_tokens
        if len(shared) > prompt_tokens or max(map(len, traces)) > room:
            return None
    chosen = members(group, negatives, rng)
    padded = pad([shared], prompt_tokens, pieces.tokenizer.pad_id)
    return GroupBatch(
        Tokens(padded.ids[0], padded.valid[0]),
        pad([traces[i] for i in chosen], room, pieces.tokenizer.pad_id),
        np.array([pool[i].rubric.dimensions for i in chosen], np.int32),
        np.array([pool[i].rubric.total for i in chosen], np.float32),
        np.ones((), bool),
    )


def narrow(batch: GroupBatch) -> GroupBatch:
    """A host batch without columns that only pad, at its full widths P and T, or at a half, a quarter or an eighth.

    So few widths that a step is compiled for few.
    """

    def cut(tokens: Tokens) -> Tokens:
        room = tokens.ids.shape[-1]
        used = int(np.asarray(tokens.valid).sum(-1).max())  # padding is on the right
        widths = [-(-room // part) for part in (1, 2, 4, 8)]
        width = min(width for width in widths if width >= used)
        return Tokens(tokens.ids[..., :width], tokens.valid[..., :width])

    return dataclasses.replace(batch, problem=cut(batch.problem), traces=cut(batch.traces))


def members(group: Group, negatives: int | None, rng: np.random.Generator | None) -> Sequence[int]:
    """The traces to read, as indices into `(*group.positives, *group.negatives)`: one positive, then the negatives.

    With `rng` the negatives are drawn without replacement, or with it where the group has fewer than asked for. Without
    they are the first, in their order, from the beginning again where there are fewer.
    """
    first, there = len(group.positives), len(group.negatives)
    count = there if negatives is None else negatives
    if rng is None:
        return [0, *(first + i % there for i in range(count))]
    positive = rng.integers(first)
    drawn = rng.choice(there, count, replace=there < count)
    return [int(positive), *(first + drawn).tolist()]
