r"""Reading the final number out of an answer, from its tokens, on device, and comparing it exactly.

`read_number` turns tokens into bytes and `read_number_bytes` turns bytes into a `Number`, an exact fraction held as two
arrays of decimal digits. Both are pure and jit into a handful of vector passes over the bytes: every decision is local
(a few bytes either side), so there is no loop over the text. `number_of` runs the very same code in NumPy, for
reference answers. No 64-bit integers anywhere.

Where the number is looked for, first rule that applies:

1. behind the last `####` that is followed by anything;
2. behind the last "answer is" or "final answer" (whichever is later; ASCII case ignored) with a digit behind it;
3. everywhere.

If what is looked at holds a `\boxed{`, and its last one is not empty, only that content counts, up to its matching
brace (or the end, where the answer was cut off). In a box and behind a marker the FIRST number is read, else the LAST.
The stretch is read as if it were the whole text: "answer is-3" is -3.

What a number is, in characters:

    atom      digits, with thousands commas, with decimals: 18  007  1,234,567  3.50  .5
    number    [sign] atom  |  [sign] atom/atom  |  [sign] \frac{[sign] atom}{atom}, also \dfrac, \tfrac
    sign      - + or U+2212, then perhaps $ or \$; not behind a letter, digit, ) ] }

| text                       | reads as   | because                                                                |
|----------------------------|------------|------------------------------------------------------------------------|
| `18.` `50%` `$18` `3rd`    | 18 50 18 3 | full stop, percent, dollar and letters are not part of it              |
| `5-3` `= -3` `-$5` `$-5`   | 3 -3 -5 -5 | behind a digit a minus subtracts; `5 -3` ends in -3, `- 3` in 3        |
| `1,234` `3, 4` `1,2`       | 1234 4 2   | a comma joins 1 to 3 digits to exactly 3, tightly                      |
| `12,345,6789` `1234,567`   | 6789 567   | the comma that does not join ends the number                           |
| `100,200,300`              | 100200300  | a list written like thousands cannot be told from thousands            |
| `0.5,123` `1 234` `1{,}234`| 123 234 234| no thousands behind decimals; only a comma separates thousands         |
| `x.5` `...5` `1.2.3`       | 5 5 3      | a point behind a letter, bracket, point or decimals is a full stop     |
| `3/4` `-3/4` `1.5/.5`      | as written | both sides atoms, no blanks: `3 / 4` and `3/-4` are two numbers        |
| `1/2/3`                    | 3          | a slash before or behind makes it a date or path: three numbers        |
| `\frac{-3}{4}`             | -3/4       | `\frac34`, blanks or a sign in the second brace: not a fraction        |
| `1 1/2` `1e5` `3:45`       | 1/2 5 45   | no mixed numbers, exponents or times                                   |
| `20 m^2` `x_1 = 5` `_18_`  | 20 5 18    | digits directly behind `^`, or `_` behind a letter, are no numbers     |
| `7 \boxed{}` `\boxed {5}`  | 7 5        | an empty box, or none: as without it                                   |
| `7 #### no` `7 \boxed{x}`  | not found  | what is marked is no number                                            |
| `#### 3-5` `#### 3 + 4`    | not found  | behind a marker or in a box: a range, a sum that nobody worked out     |
| `#### 3 or 4` `\boxed{3,4}`| not found  | the same: two answers                                                  |
| `5/0` `2^3`, over 48 digits| not found  | the number chosen is no number; no other is tried                      |

The 48 digits are those of numerator and denominator as held, leading zeros and shifts included: a/b has room where
digits(a) + decimals(b) and digits(b) + decimals(a) are at most 48 each; plain decimals count b = 1.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from tracelift_jax.text.number_stretch import ByteText, choose, goes_on, is_digit, is_power, is_tail, running_max, take
from tracelift_jax.text.tokenizer import TokenBytes

DIGITS = 48
"""Decimal digits a numerator or denominator has room for."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Number:
    """Exact fractions, one per element of any leading axes; where not found, every other field is zero.

    Attributes:
        found: bool [...], a number was read.
        negative: bool [...], its sign; False for zero.
        numerator: int8 [..., 48], decimal digits of its absolute value, least significant first.
        denominator: int8 [..., 48], the same; not zero. Not reduced: "3.50" is 350/100.
    """

    found: Array | np.ndarray
    negative: Array | np.ndarray
    numerator: Array | np.ndarray
    denominator: Array | np.ndarray


def stack(numbers: Sequence[Number]) -> Number:
    """Host numbers of equal shape `[...]` as one batch `[len(numbers), ...]`, in NumPy."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *numbers)


def capacity(tokens: int, width: int) -> int:
    """Bytes of text that `read_number` keeps of `tokens` tokens of at most `width` bytes each.

    Text has 3 to 5 bytes a token; the constant leaves room for a few long tokens (runs of blanks) in short answers.
    """
    return min(tokens * width, 8 * tokens + 128)


def read_number(tokens: Array, valid: Array, table: TokenBytes) -> Number:
    """Reads each row's final number from its tokens; see the module's docstring for what that is.

    Exact while a row's text fits `capacity(T, W)` bytes, on average 8 a token and 128 more. Of a longer text the last
    `capacity` bytes are read as if they were all of it: what counts usually stands at the end.

    Args:
        tokens: int32 [*lead, T].
        valid: bool [*lead, T], the tokens that are text; the others may be anything.
        table: the bytes of each token, data uint8 [V, W] and length int32 [V]. Only rows that occur are touched.

    Returns:
        Number with leading axes `lead`.
    """
    return read_number_bytes(*_text_of_tokens(tokens, valid, table))


def _text_of_tokens(tokens: Array, valid: Array, table: TokenBytes) -> tuple[Array, Array]:
    """Lays each row's tokens end to end: uint8 [*lead, N] with N = capacity(T, W), and int32 [*lead] bytes used."""
    data, sizes = jnp.asarray(table.data), jnp.asarray(table.length)
    room = capacity(tokens.shape[-1], data.shape[-1])
    if room == 0:
        return jnp.zeros((*tokens.shape[:-1], 0), jnp.uint8), jnp.zeros(tokens.shape[:-1], jnp.int32)
    valid = valid & (tokens >= 0) & (tokens < data.shape[0])
    tokens = jnp.where(valid, tokens, 0)
    size = jnp.where(valid, sizes[tokens], 0)
    end = jnp.cumsum(size, axis=-1)
    length = jnp.minimum(end[..., -1], room)
    begin = end - size - (end[..., -1] - length)[..., None]  # where too long, the text slides off to the left

    # Each token's index is written where it begins and carried on to the next one's begin. The largest index wins, so
    # that tokens without bytes, and those that slid off (all written at 0), give way to the token that is really there.
    def mark(begin):
        index = jnp.arange(begin.shape[-1], dtype=jnp.int32)
        return jnp.zeros(room, jnp.int32).at[jnp.maximum(begin, 0)].max(index, mode="drop")

    for _ in tokens.shape[:-1]:
        mark = jax.vmap(mark)
    owner = running_max(mark(begin))
    within = jnp.arange(room, dtype=jnp.int32) - take(begin, owner)
    within = jnp.clip(within, 0, data.shape[-1] - 1)  # only behind the text's end is there anything to clip
    return data[take(tokens, owner), within], length


def read_number_bytes(data: Array | np.ndarray, length: Array | np.ndarray) -> Number:
    """Reads each row's final number from its bytes; NumPy in, NumPy out.

    Args:
        data: uint8 [*lead, N], text in UTF-8; it need not be valid.
        length: int32 [*lead], how many bytes count.

    Returns:
        Number with leading axes `lead`.
    """
    text, digit, marked, boxed = choose(ByteText(data, length))
    return _read(text, digit, marked, boxed)


def number_of(text: str) -> Number:
    """The number that `read_number` reads from the bytes of `text`, on the host: NumPy fields, no leading axes."""
    data = np.frombuffer(text.encode("utf-8", errors="replace"), np.uint8)
    return read_number_bytes(data, np.asarray(len(data), np.int32))


def _atom_bytes(text: ByteText):
    """bool [*lead, N]: bytes of atoms. Two atoms never touch, so its runs are exactly the atoms."""
    xp, byte, digit, before = text.xp, text.shift(0), text.digit(), text.shift(-1)
    point = (byte == ord(".")) & text.digit(1) & ~is_tail(before) & (before != ord("."))
    # Is the run of digits that ends just before here behind a point? The last byte that is no digit tells: its position
    # and whether it is a point travel as one integer.
    seen = running_max(xp.where(digit, np.int32(-1), 2 * text.place + point))
    seen = xp.concatenate([xp.full_like(seen[..., :1], -1), seen[..., :-1]], axis=-1)
    behind_integer = text.digit(-1) & ((seen < 0) | (seen & 1 == 0))
    group_before = behind_integer & ~(text.digit(-2) & text.digit(-3) & text.digit(-4))
    group_after = text.digit(1) & text.digit(2) & text.digit(3) & ~text.digit(4)
    comma = (byte == ord(",")) & group_before & group_after
    return digit | comma | (point & (behind_integer | ~text.digit(-1)))


def _atom_begin(text: ByteText, atom, place):
    """int32 [*lead]: where the atom begins that runs through or ends at `place` [*lead]; `place` if there is none."""
    return text.last(~atom & (text.place < place[..., None])) + 1


def _atom_end(text: ByteText, atom, place):
    """int32 [*lead]: where the atom ends that runs through or begins at `place` [*lead]; `place` if there is none."""
    return text.first(~atom & (text.place >= place[..., None]))


def _sign_before(text: ByteText, place):
    """Whether the number at `place` int32 [*lead] is negative, and where it starts with its sign: [*lead] each."""
    xp = text.xp
    near = text.at(place[..., None] - np.arange(1, 3, dtype=np.int32))  # nearest first
    dollar = near[..., 0] == ord("$")
    skip = xp.where(dollar, 1 + (near[..., 1] == ord("\\")), 0)
    near = text.at((place - skip)[..., None] - np.arange(1, 5, dtype=np.int32))
    long_minus = (near[..., 2] == 0xE2) & (near[..., 1] == 0x88) & (near[..., 0] == 0x92)  # U+2212
    minus = near[..., 0] == ord("-")
    sign = minus | (near[..., 0] == ord("+")) | long_minus
    before = xp.where(long_minus, near[..., 3], near[..., 1])
    sign = sign & ~is_tail(before) & ~is_digit(before)
    return sign & (minus | long_minus), xp.where(sign, place - skip - xp.where(long_minus, 3, 1), place)


def _digits(text: ByteText, begin, end):
    """How the atom from `begin` to `end` (int32 [*lead]) is laid out.

    Returns:
        int32 [*lead] digits, int32 [*lead] decimals among them, and a function that gives the digits as int8
        [*lead, 48], least significant first, times ten to the int32 [*lead] it is called with.
    """
    xp = text.xp
    in_atom = (text.place >= begin[..., None]) & (text.place < end[..., None])
    point = xp.minimum(text.first(in_atom & (text.shift(0) == ord("."))), end)
    decimals = xp.maximum(end - point - 1, 0)
    whole = point - begin
    # With thousands commas all groups but the first have three digits, so a digit's place is plain arithmetic.
    grouped = (whole > 4) & (text.at((point - 4)[..., None])[..., 0] == ord(","))
    count = decimals + whole - xp.where(grouped, whole >> 2, 0)

    def shifted(tens):
        nth = np.arange(DIGITS, dtype=np.int32) - tens[..., None]
        power = nth - decimals[..., None]
        commas = xp.where(grouped[..., None], (power.astype(np.uint32) // np.uint32(3)).astype(np.int32), 0)
        place = xp.where(power < 0, end[..., None] - 1 - nth, point[..., None] - 1 - power - commas)
        value = text.at(place).astype(np.int8) - np.int8(ord("0"))
        return xp.where((nth >= 0) & (nth < count[..., None]), value, np.int8(0))

    return count, decimals, shifted


def _fraction(text: ByteText, atom, begin, end, first):
    """Looks for the other side of a fraction of which the atom from `begin` to `end` may be one side.

    The first number of a text can only be the left side, and the last number only the right side.

    Returns:
        bool [*lead], is there one; four int32 [*lead], begin and end of both sides; int32 [*lead], where the number
        begins, without its sign; bool [*lead], is there a minus inside the left brace.
    """
    xp = text.xp
    slash = text.at(xp.where(first, end, begin - 1)[..., None])[..., 0] == ord("/")
    left_end = xp.where(first, end, begin - xp.where(slash, 1, 2))
    right = left_end + xp.where(slash, 1, 2)  # between the sides stands "/" or "}{"
    left = _atom_begin(text, atom, left_end)
    right_end = _atom_end(text, atom, right)
    near = text.at(xp.stack([left - 1, left_end, left_end + 1, right_end], axis=-1))
    slashed = slash & (near[..., 0] != ord("/")) & (near[..., 3] != ord("/"))
    braced = (near[..., 1] == ord("}")) & (near[..., 2] == ord("{")) & (near[..., 3] == ord("}"))
    minus, signed_left = _sign_before(text, left)
    head = text.at(signed_left[..., None] - np.arange(7, 0, -1, dtype=np.int32))  # \dfrac{ or ?\frac{
    spelt = xp.all(head[..., 2:] == np.frombuffer(b"frac{", np.uint8), axis=-1)
    short = head[..., 1] == ord("\\")
    long = (head[..., 0] == ord("\\")) & ((head[..., 1] == ord("d")) | (head[..., 1] == ord("t")))
    braced = braced & spelt & (short | long)
    exists = (slashed | braced) & (left < left_end) & (right < right_end)
    start = xp.where(braced, signed_left - xp.where(short, 6, 7), left)
    return exists, (left, left_end, right, right_end), start, minus & braced


def _read(text: ByteText, digit, first, boxed) -> Number:
    """The first or (where `first` bool [*lead] is False) last number of `text`, fields with leading axes `lead`.

    Args:
        digit: bool [*lead, N], the digits that belong to numbers. boxed: bool [*lead], see `goes_on`.
    """
    xp, atom = text.xp, _atom_bytes(text)
    some = xp.where(first, text.first(digit), text.last(digit))
    begin, end = _atom_begin(text, atom, some), _atom_end(text, atom, some)
    fraction, (left, left_end, right, right_end), start, inner_minus = _fraction(text, atom, begin, end, first)
    start = xp.where(fraction, start, begin)
    begin, end = xp.where(fraction, left, begin), xp.where(fraction, left_end, end)
    minus, _ = _sign_before(text, start)
    negative = minus ^ (inner_minus & fraction)

    over, over_decimals, take_over = _digits(text, begin, end)
    under, under_decimals, take_under = _digits(text, right, right_end)
    under, under_decimals = xp.where(fraction, under, 1), xp.where(fraction, under_decimals, 0)
    # (a / 10^i) / (b / 10^j) = (a 10^j) / (b 10^i)
    numerator = take_over(under_decimals)
    one = (np.arange(DIGITS) == over_decimals[..., None]).astype(np.int8)
    denominator = xp.where(fraction[..., None], take_under(over_decimals), one)

    fits = (over + under_decimals <= DIGITS) & (under + over_decimals <= DIGITS)
    behind = xp.where(fraction, right_end, end)
    refused = is_power(text, behind) | (first & goes_on(text, behind, boxed))
    found = xp.any(digit, axis=-1) & fits & xp.any(denominator != 0, axis=-1) & ~refused
    numerator = xp.where(found[..., None], numerator, np.int8(0))
    denominator = xp.where(found[..., None], denominator, np.int8(0))
    return Number(found, negative & xp.any(numerator != 0, axis=-1), numerator, denominator)


def _primes(count: int, below: int) -> list[int]:
    """The `count` largest primes under `below`."""
    is_prime = [all(n % d for d in range(2, int(n**0.5) + 1)) for n in range(below)]
    return [n for n in range(below - 1, 1, -1) if is_prime[n]][:count]


# Below 2^15, so that a product of two residues and a sum of 48 digits times residues fit 31 bits. Together they exceed
# 10^96, the bound on any product of two digit arrays.
_PRIMES = np.array(_primes(22, 2**15), np.int32)
_POWERS = np.array([[pow(10, k, int(p)) for k in range(DIGITS)] for p in _PRIMES], np.int32)


def equal(a: Number, b: Number) -> Array:
    """Whether `a` and `b` are the same rational number, exactly: bool [...], leading axes broadcast.

    Never where either is not found. Zero has no sign.

    a/b = c/d means ad - cb = 0. Both products are below 10^96, and an integer that small is zero exactly if it is zero
    modulo primes whose product is larger (Chinese remainders): no carries, no wide integers, no loop.
    """

    def residues(digits):  # int32 [..., 22]
        return jnp.sum(jnp.asarray(digits, jnp.int32)[..., None, :] * _POWERS, axis=-1) % _PRIMES

    left = residues(a.numerator) * residues(b.denominator) % _PRIMES
    right = residues(b.numerator) * residues(a.denominator) % _PRIMES
    zero = ~jnp.any(jnp.asarray(a.numerator) != 0, axis=-1) & ~jnp.any(jnp.asarray(b.numerator) != 0, axis=-1)
    same_sign = jnp.asarray(a.negative) == jnp.asarray(b.negative)
    return jnp.asarray(a.found) & jnp.asarray(b.found) & (same_sign | zero) & jnp.all(left == right, axis=-1)
