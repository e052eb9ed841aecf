"""Where in the bytes of an answer its final number stands, and whether what stands around it makes it no number.

The rules are in `text.numbers`. All of it works on rows of bytes at once, in NumPy or in JAX, whichever came in.
"""

import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Zero bytes laid around the text so that looking a few bytes to either side needs no bounds; the longest look is the
# eleven bytes ahead of "final answer".
_MARGIN = 16


class ByteText:
    """Rows of bytes with a margin of zeros, and the questions asked of them; NumPy or JAX, whichever came in.

    `at`, `where`, ... are `[*lead, N]` over positions, or `[*lead]` about one position of each row.
    """

    def __init__(self, data, length, begin=0):
        """Keeps the bytes of `data` [*lead, N] from `begin` [*lead] up to `length` [*lead]; the others become zero."""
        self.xp: Any = np if isinstance(data, np.ndarray) else jnp
        self.size = data.shape[-1]
        self.place = np.arange(self.size, dtype=np.int32)
        begin, length = self.xp.asarray(begin), self.xp.asarray(length)
        inside = (self.place >= begin[..., None]) & (self.place < length[..., None])
        data = self.xp.where(inside, data, self.xp.zeros_like(data))
        self.padded = self.xp.pad(data, [(0, 0)] * (data.ndim - 1) + [(_MARGIN, _MARGIN)])

    def shift(self, by: int):
        """uint8 [*lead, N]: at each position the byte `by` positions further on."""
        return self.padded[..., _MARGIN + by : _MARGIN + by + self.size]

    def digit(self, by: int = 0):
        """bool [*lead, N]: is the byte `by` positions further on a digit?"""
        return is_digit(self.shift(by))

    def at(self, place):
        """uint8 [*lead, M]: the bytes at `place` int32 [*lead, M]; zero outside the text."""
        place = self.xp.clip(place + _MARGIN, 0, self.padded.shape[-1] - 1)
        return take(self.padded, place)

    def first(self, mask):
        """int32 [*lead]: the first position where `mask` [*lead, N] holds, else N."""
        return self.xp.min(self.xp.where(mask, self.place, np.int32(self.size)), axis=-1, initial=self.size)

    def last(self, mask):
        """int32 [*lead]: the last position where `mask` [*lead, N] holds, else -1."""
        return self.xp.max(self.xp.where(mask, self.place, np.int32(-1)), axis=-1, initial=-1)

    def behind(self, pattern: bytes, most, fold_case: bool = False):
        """int32 [*lead]: where the last occurrence of `pattern` ends that ends at or before `most` [*lead], else -1."""
        match = True
        for by, byte in enumerate(pattern):
            # Bit 5 is what an ASCII letter and its capital differ in; no other byte becomes a letter by setting it.
            letter = fold_case and chr(byte).isalpha()
            match = match & ((self.shift(by) | np.uint8(32) if letter else self.shift(by)) == byte)
        start = self.last(match & (self.place + len(pattern) <= most[..., None]))
        return self.xp.where(start < 0, -1, start + len(pattern))


def is_digit(byte):
    """Is each byte one of `0` to `9`?"""
    return (byte >= ord("0")) & (byte <= ord("9"))


def is_tail(byte):
    """Bytes that end a word or a term: letters and closing brackets."""
    folded = byte | np.uint8(32)  # case away; it also takes "]" (0x5d) to "}" (0x7d)
    return ((folded >= ord("a")) & (folded <= ord("z"))) | (folded == ord("}")) | (byte == ord(")"))


def take(x, place):
    """`x` [*lead, N] at `place` int32 [*lead, M] in 0 .. N - 1: [*lead, M]."""
    if isinstance(x, np.ndarray):
        return np.take_along_axis(x, place, axis=-1)
    return jnp.take_along_axis(x, place, axis=-1, mode="promise_in_bounds")  # every caller clips


def running_max(x):
    """The largest element up to and including each position of the last axis."""
    return np.maximum.accumulate(x, axis=-1) if isinstance(x, np.ndarray) else jax.lax.cummax(x, axis=x.ndim - 1)


def _among(byte, letters: bytes):
    """Is each byte one of `letters`?"""
    return functools.reduce(operator.or_, (byte == letter for letter in letters))


def _raised_or_lowered(text: ByteText):
    """bool [*lead, N]: the run of digits, points, commas and slashes through here is a power, an index or a label.

    So it is directly behind `^`, or `_` where that belongs to something, perhaps with a bracket and a sign between.
    """
    xp = text.xp

    def script(by: int):
        byte, before = text.shift(-by), text.shift(-by - 1)
        belongs = is_tail(before) | is_digit(before) | (before >= 0x80)
        return (byte == ord("^")) | ((byte == ord("_")) & belongs)

    def opened(by: int):
        return script(by) | (_among(text.shift(-by), b"{(") & script(by + 1))

    long_minus = (text.shift(-3) == 0xE2) & (text.shift(-2) == 0x88) & (text.shift(-1) == 0x92)  # U+2212
    behind = opened(1) | (_among(text.shift(-1), b"-+") & opened(2)) | (long_minus & opened(4))
    run = text.digit() | _among(text.shift(0), b".,/")
    begins = run & ~(is_digit(text.shift(-1)) | _among(text.shift(-1), b".,/"))
    # The last begin of a run tells: its position and what it is behind travel as one integer.
    return run & (running_max(xp.where(begins, 2 * text.place + behind, np.int32(0))) & 1 == 1)


def choose(text: ByteText) -> tuple[ByteText, Any, Any, Any]:
    """Cuts out the stretch that holds the final number.

    Returns:
        the stretch; bool [*lead, N], its digits that belong to numbers; two bool [*lead]: it is marked, so that its
        first number is meant; it is what a box holds.
    """
    xp, byte = text.xp, text.shift(0)
    filled = byte > ord(" ")
    hashes = text.behind(b"####", text.last(filled & (byte != ord("#"))))
    last_digit = text.last(text.digit())
    phrases = (text.behind(phrase, last_digit, fold_case=True) for phrase in (b"answer is", b"final answer"))
    marker = xp.where(hashes >= 0, hashes, functools.reduce(xp.maximum, phrases))
    start = xp.maximum(marker, 0)

    box = text.behind(rb"\boxed{", xp.full_like(start, text.size))
    in_box = text.place >= box[..., None]
    brace = (byte == ord("{")).astype(np.int32) - (byte == ord("}")).astype(np.int32)
    depth = xp.cumsum(xp.where(in_box, brace, 0), axis=-1)
    close = text.first(depth < 0)
    boxed = (box > start) & xp.any(filled & in_box & (text.place < close[..., None]), axis=-1)

    begin = xp.where(boxed, box, start)
    end = xp.where(boxed, close, text.size)
    inside = (text.place >= begin[..., None]) & (text.place < end[..., None])
    digit = text.digit() & inside & ~_raised_or_lowered(text)
    return ByteText(byte, end, begin), digit, boxed | (marker >= 0), boxed


def is_power(text: ByteText, end):
    """bool [*lead]: the number that ends at `end` int32 [*lead], or the bracket around it, is raised to a number."""
    end = end + _among(text.at(end[..., None])[..., 0], b")]}")
    near = text.at(end[..., None] + np.arange(3, dtype=np.int32))
    number = is_digit(near) | _among(near, b"-+")
    raised = number[..., 1] | (_among(near[..., 1], b"{(") & number[..., 2])
    return (near[..., 0] == ord("^")) & raised


def goes_on(text: ByteText, end, boxed):
    """bool [*lead]: what begins with the number that ends at `end` int32 [*lead] is a sum, a range or a choice.

    That is, an operator, a dash or "or" follows, in a box (`boxed` bool [*lead]) also a comma, and then another number;
    or a plus, and then nothing more on the line.
    """
    xp = text.xp
    bold = (text.shift(0) == ord("*")) & ((text.shift(1) == ord("*")) | (text.shift(-1) == ord("*")))
    other = ~_among(text.shift(0), b" \t)]}$%\\") & ~bold
    place = text.first(other & (text.place >= end[..., None]))
    near = text.at(place[..., None] + np.arange(3, dtype=np.int32))
    one, two, three = near[..., 0], near[..., 1], near[..., 2]
    dash = (one == 0xE2) & (((two == 0x80) & (three == 0x93)) | ((two == 0x88) & (three == 0x92)))  # U+2013, U+2212
    pair = ((one == 0xC3) & (two == 0x97)) | ((one == ord("o")) & (two == ord("r")))  # U+00D7
    single = _among(one, b"-+*/xX") | (boxed & _among(one, b",;&"))
    behind = place + xp.where(dash, 3, xp.where(pair, 2, 1))
    then = text.at(text.first(other & (text.place >= behind[..., None]))[..., None])[..., 0]
    return ((dash | pair | single) & is_digit(then)) | ((one == ord("+")) & _among(then, b"\n\0"))
