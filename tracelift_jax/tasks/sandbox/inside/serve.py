"""The candidate's side of a check: does what the checker asks with what the program defined, and says what came of it.

Nothing here is believed: a program may take its place and send what it likes, and all it can send are results.
"""

import builtins
import os

from tracelift_jax.tasks.sandbox.inside import wire

# Not from typing: see wire.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

_MUTABLE = (list, dict, set, bytearray)
_TEXT = 500


def serve(names: "dict[str, Any]", fd: int) -> "NoReturn":
    """Answers until the checker has gone, and ends the process."""
    objects = _Objects(names)
    try:
        wire.send(fd, wire.encode([name for name in names if isinstance(name, str)], _no_handle))
        while True:
            answer = objects.answer(wire.receive(fd))
            if len(answer) > wire.MAX_BYTES:
                answer = objects.raised(ValueError(f"a result of {len(answer)} bytes"))
            wire.send(fd, answer)
    except (wire.Closed, wire.WireError):
        os._exit(0)


class _Objects:
    """What has been given out, by number; the same object has the same number for good."""

    def __init__(self, names: "dict[str, Any]"):
        self.names = names
        self.kept: list[Any] = []
        self.numbers: dict[int, int] = {}

    def number(self, value: object) -> int:
        known = self.numbers.get(id(value))
        if known is None:
            known = self.numbers[id(value)] = len(self.kept)
            self.kept.append(value)
        return known

    def answer(self, request: bytes) -> bytes:
        """Does one thing: (what, then its arguments, each encoded on its own)."""
        try:
            what, count, *encoded = wire.decode(request, self.kept.__getitem__)
            values = [wire.decode(part, self.kept.__getitem__) for part in encoded]
            positional, named = values[:count], values[count:]
            keywords = dict(zip(named[::2], named[1::2], strict=True))
            result = _DO[what](self, *positional, **keywords)
            changed = [
                (i, value)
                for i, (value, before) in enumerate(zip(values, encoded, strict=True))
                if type(value) in _MUTABLE and wire.encode(value, self.number) != before
            ]
            return wire.encode(("ok", result, changed), self.number)
        except BaseException as error:
            return self.raised(error)

    def raised(self, error: BaseException) -> bytes:
        """An exception as the names of the built-in classes it is of, nearest first, and its text."""
        kinds = [kind.__name__ for kind in type(error).__mro__ if getattr(builtins, kind.__name__, None) is kind]
        try:
            # A KeyError's text is its argument quoted, and would be quoted again.
            text = str(error.args[0] if len(error.args) == 1 else error)[:_TEXT]
        except BaseException:
            text = ""
        return wire.encode(("raised", kinds, text), _no_handle)


_DO: "dict[str, Callable[..., Any]]" = {
    "global": lambda objects, name: objects.names[name],
    "call": lambda objects, function, *arguments, **keywords: function(*arguments, **keywords),
    "getattr": lambda objects, value, name: getattr(value, name),
    "setattr": lambda objects, value, name, new: setattr(value, name, new),
    "getitem": lambda objects, value, key: value[key],
    "setitem": lambda objects, value, key, new: value.__setitem__(key, new),
    "delitem": lambda objects, value, key: value.__delitem__(key),
    "len": lambda objects, value: len(value),
    "iter": lambda objects, value: iter(value),
    "next": lambda objects, value: next(value),
    "bool": lambda objects, value: bool(value),
    "str": lambda objects, value: str(value),
    "repr": lambda objects, value: repr(value),
}


def _no_handle(value: object) -> "NoReturn":
    raise TypeError(f"no plain value: {type(value).__name__}")
