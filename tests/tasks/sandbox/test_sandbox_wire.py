"""Plain values as bytes: what goes in comes out with exact types, and no bytes at all do anything else than raise."""

import contextlib
import os
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracelift_jax.tasks.sandbox.inside import wire

hashable = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(), st.complex_numbers()),
    lambda inner: st.one_of(st.tuples(inner, inner), st.frozensets(inner, max_size=3)),
    max_leaves=5,
)
values = st.recursive(
    hashable,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.tuples(inner),
        st.dictionaries(hashable, inner, max_size=3),
        st.sets(hashable, max_size=3),
    ),
    max_leaves=12,
)


def no_handle(value: object) -> int:
    raise TypeError(type(value).__name__)


def same(a: Any, b: Any) -> bool:
    """Equal, of the same types throughout, not-a-number and signs of zero included; written apart from the codec."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return struct.pack("d", a) == struct.pack("d", b)
    if isinstance(a, complex):
        return same(a.real, b.real) and same(a.imag, b.imag)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a.items(), b.items(), strict=True))
    if isinstance(a, set | frozenset):
        return len(a) == len(b) and all(any(same(x, y) for y in b) for x in a)
    return a == b


@given(value=values)
def test_a_value_arrives_as_it_was(value: Any) -> None:
    assert same(wire.decode(wire.encode(value, no_handle), no_handle), value)


@given(data=st.binary(max_size=200))
def test_any_bytes_are_a_value_or_an_error(data: bytes) -> None:
    with contextlib.suppress(wire.WireError):
        wire.decode(data, int)


@given(value=values, place=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_so_are_bytes_that_nearly_are_one(value: Any, place: int, byte: int) -> None:
    data = bytearray(wire.encode(value, no_handle))
    data[place % len(data)] = byte
    with contextlib.suppress(wire.WireError):
        wire.decode(bytes(data), int)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        b"l",
        b"l\xff\xff\xff\xff",
        b"t\0\0\0\1",
        b"NN",
        b"S\0\0\0\1l\0\0\0\0",
        b"D\0\0\0\1l\0\0\0\0N",
        b"r" + b"i\0\0\0\1\0" * 3,
        b"s\0\0\0\1\xff",
        b"y\xff",
        b"l\0\0\0\1" * 1000 + b"N",
    ],
)
def test_these_are_no_values(data: bytes) -> None:
    with pytest.raises(wire.WireError):
        wire.decode(data, int)


def test_what_derives_from_a_plain_type_becomes_it_whatever_its_methods_say() -> None:
    class Number(int):
        def __add__(self, other: object) -> int:
            return 7

        def bit_length(self) -> int:
            return 0

        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = int.__hash__

    class Text(str):
        def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
            return b"other"

    class Items(list):
        def __iter__(self):
            return iter([9])

        def __len__(self) -> int:
            return 50

    for value, plain in ((Number(3000), 3000), (Text("a"), "a"), (Items([1, 2]), [1, 2])):
        found = wire.decode(wire.encode(value, no_handle), no_handle)
        assert type(found) is type(plain) and found == plain


def test_other_objects_are_numbers_to_the_receiver() -> None:
    thing = object()
    data = wire.encode([thing, 1, thing], lambda value: 5 if value is thing else 6)
    assert wire.decode(data, lambda number: f"handle {number}") == ["handle 5", 1, "handle 5"]


def test_messages_over_a_pipe() -> None:
    read, write = os.pipe()
    wire.send(write, b"abc")
    wire.send(write, b"")
    assert (wire.receive(read), wire.receive(read)) == (b"abc", b"")
    os.write(write, struct.pack("!I", wire.MAX_BYTES + 1))
    with pytest.raises(wire.WireError):
        wire.receive(read)
    os.write(write, struct.pack("!I", 10) + b"half")
    os.close(write)
    with pytest.raises(wire.Closed):
        wire.receive(read)
    os.close(read)
    with pytest.raises(ValueError, match="bytes"):
        wire.send(1, bytes(wire.MAX_BYTES + 1))
