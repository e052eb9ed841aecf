"""Reading what servers answer: a JSON object of a given shape, or why there is none."""

import json
import re
from typing import TypeVar

import pydantic

from tracelift_jax.groups.answer_cache import Reply

Shape = TypeVar("Shape", bound=pydantic.BaseModel)

_THOUGHTS = re.compile(r"^.*</think>", re.DOTALL)


class Unusable(Exception):
    """An answer that cannot be used.

    Attributes:
        reason: in a few words, to count by. detail: what the server is told.
    """

    def __init__(self, reason: str, detail: str):
        super().__init__(detail)
        self.reason, self.detail = reason, detail


def read_reply(reply: Reply, shape: type[Shape]) -> Shape:
    """The object in an answer, whatever stands around it: thoughts, a fence, a polite word.

    Raises:
        Unusable: there is none, or its fields are missing, of another type or outside their range.
    """
    text = _THOUGHTS.sub("", reply.text)
    begin, end = text.find("{"), text.rfind("}") + 1
    if not text.strip():
        raise Unusable("empty", "the answer was empty")
    try:
        data = json.loads(text[begin:end], strict=False)  # line breaks inside strings are meant as such
    except (ValueError, RecursionError):
        if reply.finish == "length":
            raise Unusable("cut short", "the answer was too long and its end was cut off") from None
        raise Unusable("not JSON", "the answer was not one JSON object") from None
    try:
        return shape.model_validate(data)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the answer"
        missing = first["type"] == "missing"
        outside = first["type"] in ("greater_than_equal", "less_than_equal", "finite_number")
        reason = "missing field" if missing else "out of range" if outside else "wrong field"
        raise Unusable(reason, f"{place}: {reason}") from None
