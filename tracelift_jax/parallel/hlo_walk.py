"""Walks a compiled program as it would run: how often each instruction does, and what its operands come from.

A loop's trips are read from the program: from what the compiler noted, or from where its counter begins, how it steps
and what its condition compares it with. A condition that also asks for something else, as a decode loop's does (all
samples have ended), makes that the most there can be.

What a value comes from is followed through every instruction, loop and call: from nothing but constants and counters,
from weights and nothing else, or from data. A collective whose operand comes from weights alone moves weights.
"""

import dataclasses
import enum
import re
from collections.abc import Callable, Sequence

from tracelift_jax.parallel.hlo import Computation, Instruction, Module, Shape, Type

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)


class Origin(enum.IntEnum):
    """What a value was computed from; the largest of its operands'."""

    NOTHING = 0
    WEIGHTS = 1
    DATA = 2


@dataclasses.dataclass(frozen=True)
class Value:
    """What is known of an array.

    Attributes:
        number: of a whole scalar, where it is known. element: of a loop's condition, which part of its state this is.
    """

    origin: Origin = Origin.NOTHING
    number: int | None = None
    element: int | None = None


Values = Value | tuple["Values", ...]


def origin(values: Values) -> Origin:
    """Of all that is in a tuple."""
    if isinstance(values, Value):
        return values.origin
    return max(map(origin, values), default=Origin.NOTHING)


@dataclasses.dataclass(frozen=True)
class Loop:
    """A loop around an instruction.

    Attributes:
        trips: how often its body runs, at most. certain: exactly so often; False: it may end before, as decoding does.
    """

    trips: int
    certain: bool


@dataclasses.dataclass(frozen=True)
class Visit:
    """An instruction where it runs.

    Attributes:
        within: the computation it stands in. operands: what is known of them. loops: around it, outermost first.
        place: the path of what it was traced from; where nobody knows, of the loop it is in.
        fused: a part of another instruction.
    """

    instruction: Instruction
    within: Computation
    operands: tuple[Values, ...]
    loops: tuple[Loop, ...]
    place: str
    fused: bool = False

    @property
    def times(self) -> int:
        """How often it runs, at most."""
        times = 1
        for loop in self.loops:
            times *= loop.trips
        return times

    @property
    def decoding(self) -> bool:
        """Whether a loop around it may end early."""
        return not all(loop.certain for loop in self.loops)

    @property
    def collective(self) -> str | None:
        """Its kind, of a collective; the second half of one in two halves is none."""
        kind = self.instruction.opcode.removesuffix("-start")
        return kind if kind in COLLECTIVES else None


@dataclasses.dataclass
class _Compared:
    """What a condition compares: (direction, left, right)."""

    found: list[tuple[str, Value, Value]] = dataclasses.field(default_factory=list)


class Walk:
    """All visits of a program."""

    def __init__(self, module: Module, is_weight: Callable[[str], bool], weigh: Callable[[Visit], float]):
        """Walks.

        Args:
            is_weight: tells from an argument's name whether it holds weights.
            weigh: of a conditional's branches, the one whose visits weigh most is taken.
        """
        self._module, self._weigh = module, weigh
        self.visits: list[Visit] = []
        arguments = tuple(
            Value(Origin.WEIGHTS if is_weight(each.op_name) else Origin.DATA) for each in module.entry.parameters
        )
        self._run(module.entry, arguments, (), "", self.visits)

    def _run(
        self,
        computation: Computation,
        arguments: Sequence[Values],
        loops: tuple[Loop, ...],
        place: str,
        visits: list[Visit] | None,
        fused: bool = False,
        compared: _Compared | None = None,
    ) -> Values:
        """The value of a computation; its visits go to `visits`, what it compares to `compared`."""
        known: dict[str, Values] = {}
        for each in computation.instructions:
            operands = tuple(known[name] for name in each.operands if name in known)
            traced = each.op_name  # a path; compilers give what they make themselves names of another kind
            here = Visit(each, computation, operands, loops, traced if "/" in traced else place, fused)
            if visits is not None and (not fused or here.collective):
                visits.append(here)
            known[each.name] = self._value(here, arguments, visits, compared)
        return known[computation.root.name]

    def _value(
        self, here: Visit, arguments: Sequence[Values], visits: list[Visit] | None, compared: _Compared | None
    ) -> Values:
        each, operands = here.instruction, here.operands
        match each.opcode:
            case "parameter":
                return arguments[int(each.inside)]
            case "constant":
                return Value(number=int(each.inside)) if re.fullmatch(r"-?\d+", each.inside) else Value()
            case "tuple":
                return operands
            case "get-tuple-element":
                index = each.number("index") or 0
                return operands[0][index] if isinstance(operands[0], tuple) else operands[0]
            case "while":
                return self._loop(here, visits)
            case "conditional":
                return self._choice(here, visits)
            case "compare" if compared is not None:
                left, right = operands
                direction = re.search(r"direction=(\w+)", each.rest)
                if direction and isinstance(left, Value) and isinstance(right, Value):
                    compared.found.append((direction[1], left, right))
        inner = each.called("calls") or (each.called("to_apply") if each.opcode == "call" else None)
        if inner and inner in self._module.computations:
            fused = here.fused or each.opcode == "fusion"
            value = self._run(
                self._module.computations[inner], operands, here.loops, here.place, visits, fused, compared
            )
            return value if each.opcode in ("fusion", "call") else _shaped(each.kind, (value,))
        return _number(each, operands) or _shaped(each.kind, operands)

    def _choice(self, here: Visit, visits: list[Visit] | None) -> Values:
        results, weights = [], []
        for name, operand in zip(here.instruction.branches, here.operands[1:], strict=True):
            inside: list[Visit] = []
            branch = self._module.computations[name]
            results.append(self._run(branch, (operand,), here.loops, here.place, inside, here.fused))
            weights.append((sum(map(self._weigh, inside)), inside))
        if visits is not None:
            visits.extend(max(weights, key=lambda pair: pair[0])[1])
        joined = results[0]
        for result in results[1:]:
            joined = _join(joined, result)
        return joined

    def _loop(self, here: Visit, visits: list[Visit] | None) -> Values:
        each, [begin] = here.instruction, here.operands
        body, condition = (self._module.computations[each.called(role) or ""] for role in ("body", "condition"))
        once = self._run(body, (begin,), here.loops, here.place, None)
        state, after = begin, _join(begin, once)
        while after != state:
            state = after
            after = _join(state, self._run(body, (state,), here.loops, here.place, None))
        if visits is not None:
            loops = (*here.loops, self._trips(each, condition, begin, once, state))
            self._run(body, (state,), loops, here.place, visits)
            self._run(condition, (state,), loops, here.place, visits)
        return state

    def _trips(self, each: Instruction, condition: Computation, begin: Values, once: Values, state: Values) -> Loop:
        noted = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', each.rest)
        if noted:
            return Loop(int(noted[1]), True)
        if not (isinstance(begin, tuple) and isinstance(once, tuple) and isinstance(state, tuple)):
            return Loop(1, False)
        parts = tuple(
            dataclasses.replace(part, element=i) if isinstance(part, Value) else part for i, part in enumerate(state)
        )
        compared, bounds = _Compared(), []
        self._run(condition, (parts,), (), "", None, compared=compared)
        for direction, left, right in compared.found:
            if left.element is None or left.number is not None:
                direction, left, right = {"GT": "LT", "GE": "LE"}.get(direction, ""), right, left
            if direction not in ("LT", "LE", "NE") or left.element is None or right.number is None:
                continue
            first, second = begin[left.element], once[left.element]
            if isinstance(first, Value) and isinstance(second, Value) and first.number is not None:
                step = max(second.number - first.number, 1) if second.number is not None else 1
                bounds.append(max(-(-(right.number + (direction == "LE") - first.number) // step), 0))
        certain = len(compared.found) == 1 and self._is_comparison(condition.root)
        return Loop(min(bounds), certain) if bounds else Loop(1, False)

    def _is_comparison(self, root: Instruction) -> bool:
        inner = root.called("calls")
        if root.opcode == "fusion" and inner:
            return self._is_comparison(self._module.computations[inner].root)
        return root.opcode == "compare"


def _join(a: Values, b: Values) -> Values:
    """What is known where either may be."""
    if isinstance(a, tuple) and isinstance(b, tuple):
        return tuple(_join(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, Value) and isinstance(b, Value):
        return Value(max(a.origin, b.origin), a.number if a.number == b.number else None)
    return Value(max(origin(a), origin(b)))


def _number(each: Instruction, operands: tuple[Values, ...]) -> Value | None:
    """Of scalars that are passed on, and of sums of known ones."""
    if not isinstance(each.kind, Shape) or each.kind.dims or not operands:
        return None
    first = operands[0]
    if each.opcode in ("copy", "bitcast", "convert", "reshape") and isinstance(first, Value):
        return dataclasses.replace(first, origin=Origin.NOTHING)
    numbers = [x.number if isinstance(x, Value) else None for x in operands]
    if each.opcode in ("add", "subtract") and len(numbers) == 2 and None not in numbers:
        left, right = (int(n or 0) for n in numbers)
        return Value(number=left + right if each.opcode == "add" else left - right)
    return None


def _shaped(kind: Type, operands: tuple[Values, ...]) -> Values:
    """What comes from `operands`, with the structure of `kind`.

    A scalar counts as a counter, whatever it comes from: a part of weights that one picks is weights all the same.
    """
    if isinstance(kind, Shape):
        return Value() if not kind.dims else Value(max(map(origin, operands), default=Origin.NOTHING))
    if len(operands) == len(kind):
        return tuple(_shaped(part, (operand,)) for part, operand in zip(kind, operands, strict=True))
    return tuple(_shaped(part, operands) for part in kind)
