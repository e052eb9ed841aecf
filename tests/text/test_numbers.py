"""Numbers read on device against a twin of regular expressions and Fraction."""

import json
import re
from fractions import Fraction
from math import prod
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracelift_jax.text import numbers
from tracelift_jax.text.numbers import Number, equal, number_of, read_number, read_number_bytes, stack
from tracelift_jax.text.tokenizer import TokenBytes, Tokenizer

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"

# ---------------------------------------------------------------------------------------------------------- the twin

INTEGER = rb"(?>\d{1,3}(?:,\d{3}(?!\d))+|\d+)"
TAIL = rb"A-Za-z)\]}"
ATOM = (
    rb"(?>"
    rb"(?<![\d" + TAIL + rb".])\.\d+"  # .5
    rb"|(?<=[^" + TAIL + rb".]\.)\d+"  # digits behind 1.2. : no decimals and no thousands of their own
    rb"|" + INTEGER + rb"(?:\.\d+)?"
    rb")"
)
SIGN = rb"(?:(?<![\d" + TAIL + rb"])(-|\+|\xe2\x88\x92)(?:\\?\$)?)?"
NUMBER = re.compile(
    SIGN + rb"(?:\\[dt]?frac\{" + SIGN + rb"(" + ATOM + rb")\}\{(" + ATOM + rb")\}"
    rb"|(?<!/)(" + ATOM + rb")/(" + ATOM + rb")(?!/)"
    rb"|(" + ATOM + rb"))"
)


def twin_decimal(atom: bytes) -> tuple[Fraction, int, int]:
    """Value, digits, decimals."""
    atom = atom.replace(b",", b"")
    decimals = len(atom.partition(b".")[2])
    return Fraction("0" + atom.decode()), len(atom.replace(b".", b"")), decimals


def twin_value(match: re.Match) -> Fraction | None:
    outer, inner, frac_over, frac_under, over, under, single = match.groups()
    a, a_digits, a_decimals = twin_decimal(frac_over or over or single)
    b, b_digits, b_decimals = twin_decimal(frac_under or under or b"1")
    if a_digits + b_decimals > 48 or b_digits + a_decimals > 48 or b == 0:
        return None
    minus = sum(sign in (b"-", b"\xe2\x88\x92") for sign in (outer, inner))
    return a / b * (-1) ** minus


SCRIPT = re.compile(rb"(?:\^|(?<=[A-Za-z0-9)\]}\x80-\xff])_)[{(]?(?:[-+]|\xe2\x88\x92)?\Z")
RUN = re.compile(rb"[0-9.,/]+")
POWER = re.compile(rb"[)\]}]?\^[{(]?[-+0-9]")
CLOSING = rb"(?:[ \t)\]}$%\\]|\*(?=\*)|(?<=\*)\*)*+"
GOES_ON = re.compile(
    CLOSING
    + rb"(?:(?:[-+*/xX]|\xe2\x80\x93|\xe2\x88\x92|\xc3\x97|or)"
    + CLOSING
    + rb"\d|\+"
    + CLOSING
    + rb"(?:\n|\0|\Z))"
)
GOES_ON_IN_A_BOX = re.compile(GOES_ON.pattern + rb"|" + CLOSING + rb"[,;&]" + CLOSING + rb"\d")


def twin_mute(text: bytes) -> bytes:
    """The text with letters in place of digits that are raised or lowered; every byte stays where it is."""

    def mute(run: re.Match) -> bytes:
        return re.sub(rb"\d", b"n", run[0]) if SCRIPT.search(text[: run.start()]) else run[0]

    return RUN.sub(mute, text)


def twin_stretch(text: bytes) -> tuple[int, int, bool, bool]:
    """Where the bytes that count begin and end, whether their first number is meant, and whether they are in a box."""
    begin, marked = 0, False
    hashes = [m.end() for m in re.finditer(rb"(?=(####))", text) if re.search(rb"[^\0- #]", text[m.end() + 4 :])]
    phrases = [m.end(1) for m in re.finditer(rb"(?i)(?=(answer is|final answer))", text)]
    phrases = [end for end in phrases if re.search(rb"\d", text[end:])]
    if hashes:
        begin, marked = hashes[-1] + 4, True
    elif phrases:
        begin, marked = max(phrases), True
    box = text.rfind(rb"\boxed{")
    if box >= begin:
        place, depth = box + 7, 1
        while place < len(text) and depth:
            depth += (text[place] == ord("{")) - (text[place] == ord("}"))
            place += 1
        end = place if depth else place - 1
        if re.search(rb"[^\0- ]", text[box + 7 : end]):
            return box + 7, end, True, True
    return begin, len(text), marked, False


def twin(text: bytes) -> Fraction | None:
    begin, end, first, boxed = twin_stretch(text)
    stretch, quiet = text[begin:end], twin_mute(text)[begin:end]
    found = [match for match in NUMBER.finditer(stretch) if re.search(rb"\d", quiet[match.start() : match.end()])]
    if not found:
        return None
    match = found[0 if first else -1]
    behind = stretch[match.end() - match[0].endswith(b"}") :]
    if POWER.match(behind) or (first and (GOES_ON_IN_A_BOX if boxed else GOES_ON).match(behind)):
        return None
    return twin_value(match)


# --------------------------------------------------------------------------------------------------------- the tools


def value(number: Number) -> Fraction | None:
    """One number without leading axes, its fields checked for what their docstrings promise."""
    if not number.found:
        assert not number.negative and not np.any(number.numerator) and not np.any(number.denominator)
        return None
    over, under = (int("".join(map(str, np.asarray(d)[::-1].tolist()))) for d in (number.numerator, number.denominator))
    assert not (number.negative and over == 0)
    return Fraction(over, under) * (-1 if number.negative else 1)


def values(batch: Number) -> list[Fraction | None]:
    """Of numbers with one leading axis."""
    batch = jax.tree.map(np.asarray, batch)
    assert batch.found.dtype == batch.negative.dtype == bool
    assert batch.numerator.dtype == batch.denominator.dtype == np.int8
    assert batch.numerator.shape == batch.denominator.shape == (*batch.found.shape, numbers.DIGITS)
    return [value(Number(*row)) for row in zip(*jax.tree.leaves(batch), strict=True)]


def rows_of(texts: list[bytes], width: int, filler: int = 0) -> tuple[np.ndarray, np.ndarray]:
    data = np.full((len(texts), width), filler, np.uint8)
    for row, text in zip(data, texts, strict=True):
        row[: len(text)] = np.frombuffer(text, np.uint8)
    return data, np.array([len(text) for text in texts], np.int32)


jit_bytes = jax.jit(read_number_bytes)
jit_tokens = jax.jit(read_number)
jit_equal = jax.jit(equal)

PIECES = [
    *"0123456789,,..--++//$#{}\\ \n^_*xX",
    *["a", "(", ")", "[", "]", "%", "=", "−", "→", "é", "�", "–", "×", " or ", "; ", "&", " - ", " + ", "^{", "x_"],
    *[
        "####",
        "answer is",
        "Final Answer",
        "ANSWER IS ",
        "final answer is: ",
        "\\boxed{",
        "\\frac{",
        "\\dfrac{",
        "\\tfrac{",
    ],
    *["}{", "1,234", ",567", "12", "000", "-\\$", "$-", "}{2}", "\\frac{-1}{2}", "1/2", "0.5", ".25", "1" * 45],
]
adversarial = st.lists(st.sampled_from(PIECES), max_size=30).map(lambda pieces: "".join(pieces).encode()[:256])

# -------------------------------------------------------------------------------------------------- decided by hand

EXPECTED = {
    # plain numbers
    "18": "18",
    "18.": "18",
    "007": "7",
    "3.50": "7/2",
    ".5": "1/2",
    "+4": "4",
    "50%": "50",
    "3rd": "3",
    "0": "0",
    "-0": "0",
    "-0.00": "0",
    "9" * 40: "9" * 40,
    "-1.": "-1",
    # signs
    "5-3": "3",
    "x-3": "3",
    ")-3": "3",
    "= -3": "-3",
    "5 -3": "-3",
    "- 3": "3",
    "--3": "-3",
    "+-3": "-3",
    "−3": "-3",
    "4−3": "3",
    "→3": "3",  # e2 86 92, the minus is e2 88 92
    "∓3": "3",  # e2 88 93
    "ሒ3": "3",  # e1 88 92
    "-$5": "-5",
    "$-5": "-5",
    "-\\$5": "-5",
    "−$1,000.50": "-2001/2",
    "-.5": "-1/2",
    # commas
    "1,234,567": "1234567",
    "3, 4": "4",
    "1,2": "2",
    "1,23": "23",
    "1,2345": "2345",
    "1234,567": "567",
    "12,345,6789": "6789",
    "100,200,300": "100200300",
    "0.5,123": "123",
    "1 234": "234",
    "1{,}234": "234",
    "1,234.5": "2469/2",
    "1,234, and so on": "1234",
    # points
    "x.5": "5",
    "x.1,234": "1234",
    "...5": "5",
    "1.2.3": "3",
    "1.2.3.4": "4",
    "1. 2": "2",
    "5.": "5",
    # fractions
    "3/4": "3/4",
    "-3/4": "-3/4",
    "1.5/.5": "3",
    "1,000/10": "100",
    "3 / 4": "4",
    "3/-4": "-4",
    "1/2/3": "3",
    "10/12/2020": "2020",
    "#### 1/2/3": None,
    "#### 1/2 3/4": "1/2",
    "\\frac{3}{4}": "3/4",
    "\\dfrac{3}{4}": "3/4",
    "\\tfrac{3}{4}": "3/4",
    "\\xfrac{3}{4}": "4",
    "-\\frac{3}{4}": "-3/4",
    "\\frac{-3}{4}": "-3/4",
    "-\\frac{-3}{4}": "3/4",
    "-$\\frac{1.5}{2}$": "-3/4",
    "\\frac34": "34",
    "\\frac{3}{-4}": "-4",
    "\\frac{ 3 }{4}": "4",
    "{3}{4}": "4",
    "1 1/2": "1/2",
    "5/0": None,
    "5/0.00": None,
    "0/5": "0",
    "7 or 5/0": None,
    # others that are no number
    "1e5": "5",
    "3:45": "45",
    "2^3": None,
    "2^{10}": None,
    "2^-1": None,
    "2^{-1}": None,
    "1.5 x 10^(-3)": None,
    "-\\frac{1}{2}^2": None,
    "(-2)^2": None,
    "2^n": "2",
    "5^{th}": "5",
    "90^\\circ": "90",
    # raised and lowered
    "20 m^2": "20",
    "20 m^{2}": "20",
    "20 m^{-2} or so": "20",
    "20 m^\u22122": "20",
    "x^2/3": None,
    "x^2.5 = 4": "4",
    "8 x_1": "8",
    "8 x_{12}": "8",
    "8 x^(2)": "8",
    "8 λ_1": "8",
    "8 x_1,234": "8",
    "_18_": "18",
    "7 _18_": "18",
    "x_ 18": "18",
    "x ^ 18": "18",
    "The answer is x_1 = 8": "8",
    "4 5, the answer is x^2": None,
    "#### x^2": None,
    "\\boxed{x_1} 5": None,
    # what goes on behind a marker
    "#### 3-5": None,
    "#### 3 - 5": None,
    "#### 3\u20135": None,
    "#### 3 \u2212 5": None,
    "#### $3 - $5": None,
    "#### \\$3 - \\$5": None,
    "#### 30% - 50%": None,
    "#### 3 +": None,
    "#### 3 +\n": None,
    "#### 3 + 4": None,
    "#### 3 x 4": None,
    "#### 3\u00d74": None,
    "#### 3*4": None,
    "#### 3 or 4": None,
    "#### \\frac{3}{4} + 1": None,
    "#### 3/4 + 1": None,
    "#### 3 + 4 = 7": None,
    "The answer is 5 - 10": None,
    "5 - 10": "10",
    "#### 3 - or 5": "3",
    "#### 3 -": "3",
    "#### 3 + x": "3",
    "#### 3x": "3",
    "#### 3 more": "3",
    "#### 3\n- 5 apples": "3",
    "#### 3 +\n5": None,
    "#### **3** - **5**": None,
    "#### 3**2": "3",
    "#### *3*": "3",
    "#### 3-year-old": "3",
    "#### 3, 5": "3",
    "#### 3 = 5": "3",
    "#### 3 (5)": "3",
    "\\boxed{3, 5}": None,
    "\\boxed{3; 5}": None,
    "\\boxed{3-5}": None,
    "\\boxed{3, x}": "3",
    "\\boxed{3}, 5": "3",
    "\\boxed{3} - 5": "3",
    "": None,
    "none": None,
    # where to look
    "1 2 3": "3",
    "#### 18": "18",
    "#### 1 2": "1",
    "#### 1 #### 2": "2",
    "7 #### none": None,
    "7 ####": "7",
    "7 8 #### \n": "8",
    "#### 5 6 ####": "5",
    "#### 5 6 #####": "5",
    "#### 5 ###### 6 7": "6",
    "The answer is 4 #### none": None,
    "The answer is 18. That took 5 steps. I hope the answer is correct.": "18",
    "####-3": "-3",
    "##### 4 5": "4",
    "### 4 5": "5",
    "The answer is 4, not 5": "4",
    "The answer is: $4 not 5": "4",
    "ANSWER IS 4 5": "4",
    "final answer: 4 5": "4",
    "Final answer is 4 5": "4",
    "FINAL ANSWER 4 5": "4",
    "The answer is 4. The final answer 5 6": "5",
    "The final answer 5 6. The answer is 4 9": "4",
    "answer is-3": "-3",
    "the answer is 4 7 #### x": None,
    "8 9, so the answer is clear": "9",
    "the answer is 4 #### 5 6": "5",
    "\\boxed{4} and 5": "4",
    "\\boxed{4} then \\boxed{5 6} 7": "5",
    "\\boxed{} 4 5": "5",
    "\\boxed{ } 4 5": "5",
    "\\boxed{x} 4 5": None,
    "the answer is 5 \\boxed{x} 6": None,
    "\\boxed {4} 5": "5",
    "\\boxed{4": "4",
    "\\boxed{x} 4} 5": None,
    "\\boxed{{a} 4 } 5": "4",
    "\\boxed{\\frac{1}{2}} 5": "1/2",
    "\\boxed{\\$1,234.00} 5": "1234",
    "\\boxed{4} the answer is 5 6": "5",
    "the answer is 5 \\boxed{4} 6": "4",
    "the answer is 5 \\boxed{} 6": "5",
    "\\boxed{the answer is 4} 5": "4",
    "\\boxed{3 #### 4} 5": "4",
}


@pytest.mark.parametrize("text", EXPECTED)
def test_hand_decided(text):
    wanted = None if EXPECTED[text] is None else Fraction(EXPECTED[text])
    assert twin(text.encode()) == wanted
    assert value(number_of(text)) == wanted


def test_hand_decided_on_device():
    texts = [text.encode() for text in EXPECTED]
    got = values(jit_bytes(*map(jnp.asarray, rows_of(texts, 80, ord("7")))))  # what lies behind the length is ignored
    assert got == [None if wanted is None else Fraction(wanted) for wanted in EXPECTED.values()]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("5" * 48, True),
        ("5" * 49, False),
        ("0" * 49, False),  # leading zeros count
        ("0." + "0" * 46 + "1", True),
        ("." + "0" * 46 + "1", True),
        ("0." + "0" * 47 + "1", False),  # one over 10^48 has 49 digits
        ("1" * 24 + "." + "1" * 24, True),
        ("5" * 48 + "/" + "3" * 48, True),
        ("5" * 48 + "/.3", False),  # the decimal of the right side lengthens the left
        ("5" * 47 + "/.3", True),
        ("4 " + "5" * 49, False),
    ],
)
def test_room_for_digits(text, found):
    number = number_of(text)
    assert bool(number.found) == found
    assert value(number) == twin(text.encode()) == (Fraction(twin(text.encode()) or 0) if found else None)


# ----------------------------------------------------------------------------------------------------- random bytes


@settings(max_examples=300, deadline=None)
@given(st.lists(adversarial, min_size=8, max_size=8))
def test_adversarial_text(texts):
    wanted = [twin(text) for text in texts]
    data, length = rows_of(texts, 256)
    assert values(jit_bytes(data, length)) == wanted
    assert values(read_number_bytes(data, length)) == wanted  # the NumPy way


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=64), min_size=8, max_size=8))
def test_random_bytes(texts):
    assert values(jit_bytes(*rows_of(texts, 256))) == [twin(text) for text in texts]


def random_texts(rng, count: int) -> list[bytes]:
    """Denser than hypothesis in what matters; half the texts use a few of the pieces only."""
    texts = []
    for _ in range(count):
        pool = rng.choice(len(PIECES), rng.integers(2, 10)) if rng.random() < 0.5 else np.arange(len(PIECES))
        pieces = [PIECES[i] for i in rng.choice(pool, rng.integers(1, 30))]
        texts.append("".join(pieces).encode()[:256])
    return texts


def test_many_random_texts():
    texts = random_texts(np.random.default_rng(0), 20_000)
    wanted = [twin(text) for text in texts]
    assert sum(want is not None for want in wanted) > 10_000
    assert values(read_number_bytes(*rows_of(texts, 256))) == wanted


@pytest.mark.parametrize("text", ["#### 1,234.50", "", "é−3/4", "\udc80 5"])
def test_number_of_is_read_number_bytes(text):
    host = number_of(text)
    data, length = rows_of([text.encode("utf-8", "replace")], 32)
    device = jax.tree.map(lambda leaf: np.asarray(leaf)[0], jit_bytes(data, length))
    assert all(isinstance(leaf, np.ndarray | np.generic) for leaf in jax.tree.leaves(host))
    jax.tree.map(np.testing.assert_array_equal, host, device)


def test_leading_axes():
    texts = random_texts(np.random.default_rng(1), 24)
    data, length = rows_of(texts, 256)
    flat = jit_bytes(data, length)
    tree = jit_bytes(data.reshape(2, 3, 4, 256), length.reshape(2, 3, 4))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a.reshape(b.shape), b), tree, flat)
    bare = jit_bytes(data[0], length[0])
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[0]), bare, flat)


# ------------------------------------------------------------------------------------------------------------ tokens


def table_of(pieces: list[bytes], width: int | None = None) -> TokenBytes:
    width = max(map(len, pieces)) if width is None else width
    return TokenBytes(*rows_of(pieces, width))


def test_tokens_random():
    rng = np.random.default_rng(2)
    pieces = [b"", b"", *(piece.encode()[:12] for piece in PIECES)]
    table = table_of(pieces, 12)
    tokens = rng.integers(0, len(pieces), (512, 16)).astype(np.int32)
    valid = rng.random(tokens.shape) < rng.random((512, 1))
    got = values(jit_tokens(tokens, valid, table))
    assert numbers.capacity(16, 12) == 16 * 12  # nothing can be lost
    texts = [b"".join(pieces[t] for t, v in zip(*row, strict=True) if v) for row in zip(tokens, valid, strict=True)]
    assert got == [twin(text) for text in texts]
    assert sum(x is not None for x in got) > 100
    tree = jit_tokens(tokens.reshape(8, 16, 4, 16), valid.reshape(8, 16, 4, 16), table)
    assert tree.found.shape == (8, 16, 4) and tree.numerator.shape == (8, 16, 4, numbers.DIGITS)
    assert values(jax.tree.map(lambda leaf: leaf.reshape(512, *leaf.shape[3:]), tree)) == got


def test_tokens_outside_the_table_are_no_text():
    table = table_of([b"1", b"2", b"3"])
    tokens = np.array([[0, -1, 1, 3, 2, 2**31 - 1]], np.int32)
    assert values(jit_tokens(tokens, np.ones_like(tokens, bool), table)) == [123]
    assert values(jit_tokens(tokens, tokens < 2, table)) == [12]


def test_no_tokens():
    table = table_of([b"1"])
    assert values(jit_tokens(np.zeros((3, 0), np.int32), np.zeros((3, 0), bool), table)) == [None] * 3
    assert values(jit_tokens(np.zeros((3, 2), np.int32), np.zeros((3, 2), bool), table)) == [None] * 3


def test_long_text_keeps_its_last_bytes():
    rng = np.random.default_rng(3)
    pieces = [b"####", b" ", b"", *(bytes(rng.choice(list(b"0123456789  "), n).tolist()) for n in range(1, 129))]
    table = table_of(pieces)
    room = numbers.capacity(8, 128)
    assert room == 8 * 8 + 128
    tokens = rng.integers(0, len(pieces), (256, 8)).astype(np.int32)
    tokens[::2] = np.where(rng.random((128, 8)) < 0.7, tokens[::2] % 30, tokens[::2])
    tokens[0] = [0, 3, 2, 130, 66, 2, 1, 0]  # "####" and the digit behind it slide off
    texts = [b"".join(pieces[t] for t in row) for row in tokens]
    assert len(texts[0]) == room + 10 and 150 < sum(len(text) > room for text in texts) < 250
    got = values(jit_tokens(tokens, np.ones_like(tokens, bool), table))
    assert got == [twin(text[-room:]) for text in texts]


def test_one_compilation_for_one_shape():
    traces = []

    @jax.jit
    def judge(tokens, valid, table, reference):
        traces.append(1)
        return equal(read_number(tokens, valid, table), reference)

    table = jax.tree.map(jnp.asarray, table_of([b"1", b"2", b"####", b" "]))
    for seed in range(3):
        tokens = np.random.default_rng(seed).integers(0, 4, (4, 6)).astype(np.int32)
        reference = stack([number_of(text) for text in ["1", "2", "12", f"{seed}"]])
        judge(tokens, tokens > seed, table, reference).block_until_ready()
    assert len(traces) == 1


# ---------------------------------------------------------------------------------------------------------- equality


def test_equal_by_hand():
    pairs = [
        ("18", "18.00", True),
        ("0.5", "1/2", True),
        ("1/3", "0.333333", False),
        ("1/3", "2/6", True),
        ("-3", "3", False),
        ("-0", "0", True),
        ("0/5", "-0.0", True),
        ("1,234", "1234", True),
        ("1" * 48, "1" * 47 + "2", False),
        ("1" * 40, "1" * 40 + ".0", True),
        ("x", "x", False),
        ("5", "x", False),
        ("0", "x", False),
        ("1/0", "1/0", False),
        ("10", "1", False),
    ]
    a, b = stack([number_of(a) for a, _, _ in pairs]), stack([number_of(b) for _, b, _ in pairs])
    assert jit_equal(a, b).tolist() == jit_equal(b, a).tolist() == [same for _, _, same in pairs]


def test_equal_takes_unsigned_and_signed_zero_alike():
    zero = number_of("0")
    assert equal(zero, Number(zero.found, np.array(True), zero.numerator, zero.denominator))


whole = st.integers(0, 10**24 - 1)


@settings(max_examples=200, deadline=None)
@given(whole, st.integers(1, 10**24 - 1), st.integers(1, 10**24), st.integers(-2, 2), st.booleans())
def test_equal_like_fractions(over, under, scale, off, minus):
    a = number_of(f"{'-' if minus else ''}{over}/{under}")
    b = number_of(f"{'-' if minus else ''}{max(over * scale + off, 0)}/{under * scale}")
    assert value(a) is not None and value(b) is not None
    assert bool(jit_equal(a, b)) == (value(a) == value(b))
    assert bool(jit_equal(a, a)) and bool(jit_equal(b, b))


def test_equal_cannot_be_fooled_by_its_moduli():
    primes = [int(p) for p in numbers._PRIMES]
    assert all(p < 2**15 and all(p % d for d in range(2, 182)) for p in primes) and len(set(primes)) == len(primes)
    assert prod(primes) > 10 ** (2 * numbers.DIGITS)
    step = prod(primes[:10])  # equal modulo ten of them
    assert 10**40 < step < 10**48
    assert not jit_equal(number_of("17"), number_of(str(17 + step)))
    assert not jit_equal(number_of(f"{step}/{10**47 + 7}"), number_of(f"0/{prod(primes[10:20])}"))


def test_equal_broadcasts():
    texts = [["1", "2", "0.5"], ["2", "4/2", "x"]]
    answers = stack([stack([number_of(text) for text in row]) for row in texts])
    reference = stack([number_of("1"), number_of("2")])
    wide = jax.tree.map(lambda leaf: leaf[:, None], reference)
    assert jit_equal(answers, wide).tolist() == [[True, False, False], [True, True, False]]
    assert jit_equal(wide, answers).tolist() == [[True, False, False], [True, True, False]]


# ------------------------------------------------------------------------------------------------- real text, Qwen2.5


@pytest.fixture(scope="module")
def qwen() -> tuple[Tokenizer, TokenBytes]:
    if not (DATA / "qwen2.5_tokenizer").is_dir():
        pytest.skip("no Qwen2.5 tokenizer beside the repository")
    tokenizer = Tokenizer.load(DATA / "qwen2.5_tokenizer")
    return tokenizer, jax.tree.map(jnp.asarray, tokenizer.token_bytes(151_936))


@pytest.fixture(scope="module")
def gsm8k() -> list[str]:
    path = DATA / "gsm8k" / "test.jsonl"
    if not path.is_file():
        pytest.skip("no GSM8K beside the repository")
    return [json.loads(line)["answer"] for line in path.read_text().splitlines()]


VIEWS = {
    "all": lambda answer: answer,
    "last line": lambda answer: answer.rsplit("\n", 1)[-1],
    "no marker": lambda answer: answer.rsplit("\n", 1)[0],
    "phrase": lambda answer: "The answer is: $" + answer.rsplit("#### ", 1)[-1] + ".\n\nQ: 2 + 2 =",
    "boxed": lambda answer: answer.replace("#### ", "\\boxed{") + "} dollars, 99 % sure",
}


SOME = ("all",)
"""Each view compiles the reader anew; one of them is quick enough."""


@pytest.mark.parametrize("view", [pytest.param(v, marks=[] if v in SOME else pytest.mark.slow) for v in VIEWS])
def test_gsm8k_with_qwen(view, gsm8k, qwen):
    tokenizer, table = qwen
    texts = [VIEWS[view](answer) for answer in gsm8k]
    encoded = [tokenizer.encode(text) for text in texts]
    width = 448  # one shape, one compilation: the longest text has 422 tokens
    tokens = np.full((len(texts), width), tokenizer.pad_id, np.int32)
    for row, ids in zip(tokens, encoded, strict=True):
        row[: len(ids)] = ids
    valid = np.arange(width) < np.array([len(ids) for ids in encoded])[:, None]
    number = jit_tokens(tokens, valid, table)
    assert values(number) == [twin(text.encode()) for text in texts]
    if view != "no marker":
        final = [answer.rsplit("#### ", 1)[-1] for answer in gsm8k]
        assert values(number) == [Fraction(text.replace(",", "")) for text in final]
        assert np.all(jit_equal(number, stack([number_of(text) for text in final])))
