"""Reads the text of compiled programs: computations, their instructions, shapes and where these lie."""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

_BYTES = {"pred": 1, "s4": 0.5, "u4": 0.5, "c64": 8, "c128": 16, "token": 0, "opaque": 0, "key": 8}
_ARRAY = re.compile(r"([a-z]+[0-9]*[a-z0-9]*)\[([0-9,<=]*)\](?:\{([^{}]*)\})?")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_NAME = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_OPCODE = re.compile(r" ?([a-z][\w\-]*)\(")
_OPERAND = re.compile(r"%([\w.\-]+)")
_COMMENT = re.compile(r"/\*.*?\*/")
_SPACE = re.compile(r"S\((\d+)\)")


@dataclasses.dataclass(frozen=True)
class Shape:
    """An array on one device.

    Attributes:
        kind: its dtype, as the text has it. dims: its axes. space: the memory it lies in, 0 being the main one.
    """

    kind: str
    dims: tuple[int, ...]
    space: int = 0

    @property
    def elements(self) -> int:
        """How many there are."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> float:
        """Without the padding of layouts."""
        digits = re.search(r"\d+", self.kind)
        size = _BYTES[self.kind] if self.kind in _BYTES else int(digits[0]) / 8 if digits else 0
        return self.elements * size


Type = Shape | tuple["Type", ...]
"""An array or a tuple of types."""


def arrays(kind: Type) -> Iterator[Shape]:
    """All arrays of a type."""
    if isinstance(kind, Shape):
        yield kind
    else:
        for part in kind:
            yield from arrays(part)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line.

    Attributes:
        kind: of its result. operands: names of instructions, in order. inside: what stands between the parentheses.
        rest: all attributes behind them.
    """

    name: str
    kind: Type
    opcode: str
    operands: tuple[str, ...]
    inside: str
    rest: str
    root: bool

    def called(self, role: str) -> str | None:
        """The computation named by attribute `role`, such as "body"."""
        found = re.search(rf"\b{role}=%?([\w.\-]+)", self.rest)
        return found[1] if found else None

    @property
    def branches(self) -> tuple[str, ...]:
        """A conditional's computations."""
        listed = re.search(r"branch_computations=\{([^}]*)\}", self.rest)
        if listed:
            return tuple(name.strip().lstrip("%") for name in listed[1].split(","))
        pair = (self.called("true_computation"), self.called("false_computation"))
        return tuple(name for name in pair if name)

    def number(self, attribute: str) -> int | None:
        """An attribute that is a whole number, such as "index"."""
        found = re.search(rf"\b{attribute}=(-?\d+)", self.rest)
        return int(found[1]) if found else None

    def numbers(self, attribute: str) -> tuple[int, ...]:
        """An attribute that lists them in braces; none where it is absent."""
        found = re.search(rf"\b{attribute}=\{{([\d,]*)\}}", self.rest)
        return tuple(int(n) for n in found[1].split(",") if n) if found else ()

    @property
    def op_name(self) -> str:
        """The path of what it was traced from, "" where nobody knows."""
        found = re.search(r'op_name="((?:[^"\\]|\\.)*)"', self.rest)
        return found[1].replace("\\'", "'") if found else ""

    @property
    def group(self) -> int:
        """How many devices a collective joins; 1 where it does not say."""
        return group_size(self.rest)


@dataclasses.dataclass(frozen=True)
class Computation:
    """Instructions in an order in which each comes after its operands."""

    name: str
    instructions: tuple[Instruction, ...]

    @property
    def root(self) -> Instruction:
        """What it gives."""
        return next((each for each in self.instructions if each.root), self.instructions[-1])

    @property
    def parameters(self) -> tuple[Instruction, ...]:
        """In order."""
        found = [each for each in self.instructions if each.opcode == "parameter"]
        return tuple(sorted(found, key=lambda each: int(each.inside)))


@dataclasses.dataclass(frozen=True)
class Module:
    """A compiled program of one device."""

    computations: Mapping[str, Computation]
    entry: Computation


def parse(text: str) -> Module:
    """The program that `compiled.as_text()` tells.

    Raises:
        ValueError: it has no entry.
    """
    computations: dict[str, Computation] = {}
    entry, name, lines = "", "", []
    for line in text.splitlines():
        head = _HEAD.match(line)
        if head:
            name, lines = head[2], []
            entry = name if head[1] else entry
        elif line.startswith("}") and name:
            computations[name] = Computation(name, tuple(lines))
            name = ""
        elif name and (match := _NAME.match(line)):
            lines.append(_instruction(_COMMENT.sub("", line[match.end() :]), match[2], bool(match[1])))
    if not entry:
        raise ValueError("the program's text has no ENTRY computation")
    return Module(computations, computations[entry])


def _instruction(text: str, name: str, root: bool) -> Instruction:
    kind, end = _type(text, 0)
    opcode = _OPCODE.match(text, end)
    if opcode is None:
        raise ValueError(f"no opcode behind the type of {name}: {text[end : end + 80]!r}")
    close = _closing(text, opcode.end() - 1)
    inside = text[opcode.end() : close]
    return Instruction(name, kind, opcode[1], tuple(_OPERAND.findall(inside)), inside, text[close + 1 :], root)


def _closing(text: str, start: int) -> int:
    """Where the parenthesis at `start` is closed."""
    depth = 0
    for place in range(start, len(text)):
        depth += (text[place] == "(") - (text[place] == ")")
        if not depth:
            return place
    raise ValueError(f"a parenthesis is not closed: {text[start : start + 80]!r}")


def _type(text: str, start: int) -> tuple[Type, int]:
    """The type that begins at `start`, and where it ends."""
    if text[start] != "(":
        found = _ARRAY.match(text, start)
        if found is None:
            raise ValueError(f"not a type: {text[start : start + 80]!r}")
        space = _SPACE.search(found[3] or "")
        dims = tuple(int(n.lstrip("<=")) for n in found[2].split(",") if n)
        return Shape(found[1], dims, int(space[1]) if space else 0), found.end()
    parts, place = [], start + 1
    while text[place] != ")":
        if text[place] in ", ":
            place += 1
            continue
        part, place = _type(text, place)
        parts.append(part)
    return tuple(parts), place + 1


def group_size(attributes: str) -> int:
    """Devices in one group of `replica_groups`, of which there are three notations; of a permutation, 2."""
    if "source_target_pairs=" in attributes:
        return 2
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", attributes)
    if listed:
        return len(listed[1].split(","))
    iota = re.search(r"replica_groups=\[(\d+),(\d+)\]<=", attributes)
    if iota:
        return int(iota[2])
    mesh = re.search(r"replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}", attributes)
    if mesh:
        sizes = dict(re.findall(r"'([^']*)'=(\d+)", mesh[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'([^']*)'", mesh[2]))
    return 1
