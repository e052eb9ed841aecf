"""A server as the grader of traces: 0..10 for each dimension and for the whole, as labels and a total."""

import math
from typing import Annotated, Any

import pydantic

from tracelift_jax.groups.chat_client import Chat
from tracelift_jax.groups.flaw_prompts import MAX_GRADE, OVERALL, grading_prompt, grading_schema
from tracelift_jax.groups.replies import Unusable, read_reply
from tracelift_jax.groups.schema import DIMENSIONS, MAX_LABEL, Rubric, RubricName
from tracelift_jax.groups.seeds import Seed

_Grade = Annotated[float, pydantic.Field(ge=0, le=MAX_GRADE, strict=True, allow_inf_nan=False)]


def _shape(name: RubricName) -> type[pydantic.BaseModel]:
    fields: dict[str, Any] = dict.fromkeys((*DIMENSIONS[name], OVERALL), (_Grade, ...))
    return pydantic.create_model("Grades", **fields)


_SHAPES: dict[RubricName, type[pydantic.BaseModel]] = {name: _shape(name) for name in DIMENSIONS}


def to_rubric(name: RubricName, grades: dict[str, float]) -> Rubric:
    """METHOD's labels: min(4, floor(grade / 2)) of each dimension, and a tenth of the whole's grade as total."""
    a, b, c, d, e = (min(MAX_LABEL, math.floor(grades[field] / 2)) for field in DIMENSIONS[name])
    return Rubric((a, b, c, d, e), round(grades[OVERALL] / MAX_GRADE, 4))


async def grade(chat: Chat, seed: Seed, reasoning: str) -> Rubric | str:
    """The grade of a reasoning; where no answer could be used, why not."""
    reason, faults = "", []
    for attempt in range(1, chat.server.attempts + 1):
        prompt = grading_prompt(seed, reasoning, attempt, faults)
        reply = await chat.ask(prompt, grading_schema(seed.rubric_name), attempt)
        try:
            return to_rubric(seed.rubric_name, read_reply(reply, _SHAPES[seed.rubric_name]).model_dump())
        except Unusable as error:
            reason, faults = error.reason, [error.detail]
    return reason
