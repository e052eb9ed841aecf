"""Plain values over a pipe: what they are made of is decided here, never by who sends them.

What arrives is always of exact built-in types, so a result cannot bring methods of its own along; whatever else the
sender has stays with it, and a number stands for it, its handle.
"""

import os
import struct

# Not from typing: every box would import it, and it takes as long as a small program.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

MAX_BYTES = 16 << 20
MAX_DEPTH = 200
LENGTH = struct.Struct("!I")
_FLOAT, _COMPLEX = struct.Struct("!d"), struct.Struct("!dd")
_TYPES = (
    *(int, float, str, bool, complex, bytes, bytearray, list, tuple, dict, set, frozenset, range, object, type(None)),
)
_COLLECTIONS: "dict[bytes, Any]" = {b"l": list, b"t": tuple, b"S": set, b"Z": frozenset}
_PAST_END = "a message that ends too early"


class WireError(Exception):
    """What arrived is no message."""


class Closed(Exception):
    """Nobody is at the other end."""


def encode(value: "Any", handle: "Callable[[object], int]", depth: int = 0) -> bytes:
    """A value as bytes.

    Args:
        value: of built-in types or of classes derived from them, which arrive as the built-in type.
        handle: gives the number of any other object; raises TypeError where there can be none.

    Raises:
        TypeError: what `handle` raises. ValueError: the value is nested too deeply.
    """
    if depth > MAX_DEPTH:
        raise ValueError("a value nested too deeply")
    kind = type(value)
    if value is None:
        return b"N"
    if kind is bool:
        return b"T" if value else b"F"
    if isinstance(value, int):
        body = int.to_bytes(value, int.bit_length(value) // 8 + 1, "big", signed=True)
        return b"i" + LENGTH.pack(len(body)) + body
    if isinstance(value, float):
        return b"d" + _FLOAT.pack(value)
    if isinstance(value, str):
        body = str.encode(value, "utf-8", "surrogatepass")
        return b"s" + LENGTH.pack(len(body)) + body
    if isinstance(value, complex):
        return b"c" + _COMPLEX.pack(value.real, value.imag)
    if isinstance(value, (bytes, bytearray)):
        body = bytes(memoryview(value))
        return (b"b" if isinstance(value, bytes) else b"B") + LENGTH.pack(len(body)) + body
    if kind is range:
        return b"r" + b"".join(encode(n, handle) for n in (value.start, value.stop, value.step))
    for tag, base in _COLLECTIONS.items():
        if isinstance(value, base):
            items = [encode(item, handle, depth + 1) for item in base.__iter__(value)]
            return tag + LENGTH.pack(len(items)) + b"".join(items)
    if isinstance(value, dict):
        items = [encode(part, handle, depth + 1) for pair in dict.items(value) for part in pair]
        return b"D" + LENGTH.pack(len(items) // 2) + b"".join(items)
    if kind is type and value in _TYPES:
        return b"y" + bytes([_TYPES.index(value)])
    return b"h" + LENGTH.pack(handle(value))


def decode(data: bytes, handle: "Callable[[int], object]") -> "Any":
    """The value that bytes say.

    Args:
        data: from anyone, well-formed or not.
        handle: makes an object of the number of one that stayed with the sender.

    Raises:
        WireError: no value can be read from them.
    """
    reader = _Reader(data, handle)
    value = reader.value(0)
    if reader.place != len(data):
        raise WireError("more than one value")
    return value


class _Reader:
    def __init__(self, data: bytes, handle: "Callable[[int], object]"):
        self.data, self.handle, self.place = data, handle, 0

    def take(self, count: int) -> bytes:
        start, self.place = self.place, self.place + count
        if self.place > len(self.data):
            raise WireError(_PAST_END)
        return self.data[start : self.place]

    def count(self) -> int:
        return LENGTH.unpack(self.take(4))[0]

    def values(self, count: int, depth: int) -> "list[Any]":
        if count > len(self.data) - self.place:
            raise WireError(_PAST_END)
        return [self.value(depth) for _ in range(count)]

    def value(self, depth: int) -> "Any":
        if depth > MAX_DEPTH:
            raise WireError("a value nested too deeply")
        tag = self.take(1)
        if tag in _CONSTANTS:
            return _CONSTANTS[tag]
        if tag == b"i":
            return int.from_bytes(self.take(self.count()), "big", signed=True)
        if tag == b"d":
            return _FLOAT.unpack(self.take(8))[0]
        if tag == b"c":
            return complex(*_COMPLEX.unpack(self.take(16)))
        if tag == b"h":
            return self.handle(self.count())
        if tag == b"y":
            (place,) = self.take(1)
            if place >= len(_TYPES):
                raise WireError("no such type")
            return _TYPES[place]
        try:
            return self._collection(tag, depth + 1)
        except (TypeError, ValueError) as error:
            raise WireError(f"{error}") from None

    def _collection(self, tag: bytes, depth: int) -> "Any":
        if tag == b"s":
            return self.take(self.count()).decode("utf-8", "surrogatepass")
        if tag == b"b":
            return bytes(self.take(self.count()))
        if tag == b"B":
            return bytearray(self.take(self.count()))
        if tag == b"r":
            return range(*self.values(3, depth))
        if tag == b"D":
            items = self.values(2 * self.count(), depth)
            return dict(zip(items[::2], items[1::2], strict=True))
        if tag not in _COLLECTIONS:
            raise WireError(f"no value begins with {tag!r}")
        return _COLLECTIONS[tag](self.values(self.count(), depth))


_CONSTANTS = {b"N": None, b"T": True, b"F": False}


def send(fd: int, data: bytes) -> None:
    """Sends one message.

    Raises:
        Closed: nobody is there to receive it. ValueError: it is too long.
    """
    if len(data) > MAX_BYTES:
        raise ValueError(f"a value of {len(data)} bytes")
    view = memoryview(LENGTH.pack(len(data)) + data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except OSError:
            raise Closed from None


def receive(fd: int) -> bytes:
    """Receives one message.

    Raises:
        Closed: the other end was closed. WireError: the message is too long.
    """
    (length,) = LENGTH.unpack(_exactly(fd, 4))
    if length > MAX_BYTES:
        raise WireError(f"a message of {length} bytes")
    return _exactly(fd, length)


def _exactly(fd: int, count: int) -> bytes:
    parts = []
    while count:
        try:
            part = os.read(fd, min(count, 1 << 20))
        except OSError:
            part = b""
        if not part:
            raise Closed
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
