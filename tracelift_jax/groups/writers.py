"""A server as the writer of flawed traces."""

import dataclasses
from collections.abc import Sequence

import pydantic

from tracelift_jax.groups.chat_client import Chat
from tracelift_jax.groups.filters import FAULTS, Filter
from tracelift_jax.groups.flaw_prompts import writing_prompt, writing_schema
from tracelift_jax.groups.replies import Unusable, read_reply

LEFT_OUT = "writer: left out"


class _Flawed(pydantic.BaseModel):
    kind: str
    reasoning: str


class _Traces(pydantic.BaseModel):
    traces: list[_Flawed]


@dataclasses.dataclass(frozen=True)
class Written:
    """What a writer made of one seed.

    Attributes:
        traces: kinds and texts, in the order of the kinds asked for. dropped: why those that lack are not there.
    """

    traces: tuple[tuple[str, str], ...]
    dropped: tuple[str, ...]


async def write(chat: Chat, wanted: Filter, kinds: Sequence[str]) -> Written:
    """Asks for one flawed version of the positive of each kind, and again for those that cannot be used.

    Args:
        wanted: the seed, its positive and what is not used. kinds: some of its kinds.
    """
    good: dict[str, str] = {}
    reasons: dict[str, str] = {}
    faults: list[str] = []
    for attempt in range(1, chat.server.attempts + 1):
        asked = [kind for kind in kinds if kind not in good]
        if not asked:
            break
        prompt = writing_prompt(wanted.seed, wanted.positive, asked, attempt, faults)
        reply = await chat.ask(prompt, writing_schema(asked), attempt)
        try:
            traces = read_reply(reply, _Traces).traces
        except Unusable as error:
            reasons, faults = dict.fromkeys(asked, f"writer: {error.reason}"), [error.detail]
            continue
        unknown = sorted({trace.kind for trace in traces} - set(kinds))
        reasons, faults = {}, [f"{kind[:40]!r} is no kind of the list" for kind in unknown]
        for kind in asked:
            text = next((trace.reasoning.strip() for trace in traces if trace.kind == kind), None)
            reason = LEFT_OUT if text is None else wanted.fault(text, good.values())
            if reason:
                reasons[kind] = reason
                faults.append(f"the version for `{kind}` {FAULTS.get(reason, 'is missing')}")
            elif text is not None:
                good[kind] = text
    return Written(
        tuple((kind, good[kind]) for kind in kinds if kind in good),
        tuple(reasons[kind] for kind in kinds if kind not in good),
    )
