"""What instructions of a compiled program cost: operations of products, bytes to and from memory, bytes on wires."""

import dataclasses
import math
import re

import numpy as np

from tracelift_jax.parallel.hlo import Computation, Instruction, Module, Shape, Type, arrays
from tracelift_jax.parallel.hlo_walk import Visit

_FREE = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "while",
    "conditional",
    "call",
    "after-all",
    "partition-id",
    "replica-id",
    "optimization-barrier",
    "add-dependency",
}
"""Move nothing by themselves."""
_FREE_TARGETS = ("AllocateBuffer", "ConcatBitcast", "AssumeGatherIndicesInBound", "Sharding", "MoveToHost")


class Cost:
    """Costs within one module."""

    def __init__(self, module: Module):
        """Keeps what it has counted of fused computations."""
        self._module = module
        self._products: dict[str, float] = {}

    def flops(self, visit: Visit) -> float:
        """Of matrix products and convolutions, a multiplication and an addition being two; all else is left out."""
        return 0.0 if visit.fused else self._flops(visit.instruction, visit.within)

    def _flops(self, each: Instruction, within: Computation) -> float:
        if each.opcode == "dot":
            return _dot(each, within)
        if each.opcode == "convolution":
            return _convolution(each, within)
        inner = each.called("calls") if each.opcode == "fusion" else None
        if inner is None:
            return 0.0
        if inner not in self._products:
            computation = self._module.computations[inner]
            self._products[inner] = sum(self._flops(one, computation) for one in computation.instructions)
        return self._products[inner]

    def traffic(self, visit: Visit) -> float:
        """Bytes read from and written to main memory; of a part that is picked or replaced, the part's."""
        each, within = visit.instruction, visit.within
        if (
            visit.fused
            or visit.collective
            or each.opcode in _FREE
            or each.opcode.endswith("-done")
            or self._stays(each)
        ):
            return 0.0
        if each.opcode == "custom-call" and any(target in each.rest for target in _FREE_TARGETS):
            return 0.0
        if each.opcode in ("copy-start", "slice-start", "async-start"):
            moved = _destination(each)
            sides = [moved.space, *(shape.space for name in each.operands for shape in arrays(_kind(within, name)))]
            return moved.bytes * sides.count(0)
        read = sum(self._read(each, within, index) for index in range(len(each.operands)))
        return read + self._written(each, within, each.kind)

    def _read(self, each: Instruction, within: Computation, index: int) -> float:
        kind = _kind(within, each.operands[index])
        whole = sum(shape.bytes for shape in arrays(kind) if shape.space == 0)
        if not whole:
            return 0.0
        used, passed = self._used(each, index, whole)
        return whole if passed else min(whole, used)

    def _used(self, each: Instruction, index: int, whole: float) -> tuple[float, bool]:
        """Bytes that `each` reads of operand `index`, which has `whole`, and whether its result is that operand."""
        if each.opcode == "bitcast" or self._stays(each):
            return 0.0, True
        if each.opcode in ("dynamic-slice", "slice", "gather") and index == 0:
            return sum(shape.bytes for shape in arrays(each.kind)), False
        if each.opcode == "dynamic-update-slice" and index == 0:
            return 0.0, False
        inner = each.called("calls") if each.opcode == "fusion" else None
        if inner is None:
            return whole, False
        computation = self._module.computations[inner]
        names, total = {computation.parameters[index].name}, 0.0
        for one in computation.instructions:
            for place, name in enumerate(one.operands):
                if name in names:
                    used, passed = self._used(one, place, whole)
                    total += used
                    names |= {one.name} if passed else set()
        return total, computation.root.name in names

    def _stays(self, each: Instruction) -> bool:
        """Whether it only tells of its operand in other tiles: so a layer is picked from a stack of int8."""
        inner = each.called("calls") if each.opcode == "fusion" else None
        return (
            inner is not None
            and "output_to_operand_aliasing={{}: (0, {})}" in each.rest
            and self._module.computations[inner].root.opcode == "copy"
        )

    def _written(self, each: Instruction, within: Computation, kind: Type) -> float:
        """Bytes of what `each`, of type `kind`, writes to main memory."""
        if isinstance(kind, Shape) and kind.space != 0:
            return 0.0
        if each.opcode == "dynamic-update-slice":
            return sum(shape.bytes for shape in arrays(_kind(within, each.operands[1])))
        if each.opcode == "tuple" and not isinstance(kind, Shape):
            named = {one.name: one for one in within.instructions}
            pairs = zip(each.operands, kind, strict=True)
            return sum(self._written(named[name], within, part) for name, part in pairs)
        if each.opcode == "bitcast":
            return self._written(_named(within, each.operands[0]), within, kind)
        inner = each.called("calls") if each.opcode == "fusion" else None
        if inner is not None:
            computation = self._module.computations[inner]
            return self._written(computation.root, computation, kind)
        return sum(shape.bytes for shape in arrays(kind) if shape.space == 0)


@dataclasses.dataclass(frozen=True)
class Wire:
    """A collective.

    Attributes:
        kind: its opcode. bytes: of what one device puts in, of a gather what it gets. group: devices it joins.
    """

    kind: str
    bytes: float
    group: int

    @property
    def sent(self) -> float:
        """Bytes each device sends around a ring; of a sum over it, twice: once added up, once handed on."""
        share = (self.group - 1) / self.group
        match self.kind:
            case "all-reduce":
                return 2 * share * self.bytes
            case "collective-permute" | "collective-broadcast":
                return self.bytes
        return share * self.bytes

    def hops(self, axes: int) -> int:
        """How many neighbours a message passes at most, through a cube of `axes`; 0 axes are a switch.

        A sum goes there and back; a permutation is between neighbours.
        """
        if self.kind in ("collective-permute", "collective-broadcast") or not axes:
            across = 1
        else:
            across = math.ceil(axes * (self.group ** (1 / axes) - 1))
        return 2 * across if self.kind == "all-reduce" else across


def wire(visit: Visit) -> Wire | None:
    """The collective that an instruction is; None for all others, and for one within a single device."""
    kind, each = visit.collective, visit.instruction
    if kind is None or each.group < 2:
        return None
    put = sum(shape.bytes for name in each.operands for shape in arrays(_kind(visit.within, name)))
    return Wire(kind, put * each.group if kind == "all-gather" else put, each.group)


def _named(within: Computation, name: str) -> Instruction:
    return next(one for one in within.instructions if one.name == name)


def _kind(within: Computation, name: str) -> Type:
    return _named(within, name).kind


def _destination(each: Instruction) -> Shape:
    """What the first half of a copy in two halves fills: (to, from, ...) or ((from), to, ...)."""
    assert isinstance(each.kind, tuple)
    return next(part for part in each.kind if isinstance(part, Shape))


def _dot(each: Instruction, within: Computation) -> float:
    [out], [left] = list(arrays(each.kind)), list(arrays(_kind(within, each.operands[0])))
    return 2.0 * out.elements * math.prod(left.dims[axis] for axis in each.numbers("lhs_contracting_dims"))


def _convolution(each: Instruction, within: Computation) -> float:
    """Products of a convolution; those with padding and with the holes of a dilation are no work."""
    [out] = arrays(each.kind)
    [left], [right] = (list(arrays(_kind(within, name))) for name in each.operands)
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", each.rest)
    assert labels is not None
    lhs, rhs, made = (
        dict(zip(text, shape.dims, strict=True))
        for text, shape in zip(labels.groups(), (left, right, out), strict=True)
    )
    window = _window(each.rest)
    pairs = made["b"] * made["f"] * rhs["i"]
    for axis in range(len(left.dims) - 2):
        d = str(axis)
        pairs *= _meetings(lhs[d], rhs[d], made[d], **{name: values[axis] for name, values in window.items() if values})
    return 2.0 * pairs


def _window(rest: str) -> dict[str, list[int]]:
    """Each attribute of a convolution's window, by axis; none where it is absent."""
    found = re.search(r"window=\{([^}]*)\}", rest)
    fields = dict(field.split("=") for field in found[1].split()) if found else {}
    sizes = {
        name: [int(n) for n in fields.get(name, "").split("x") if n] for name in ("stride", "lhs_dilate", "rhs_dilate")
    }
    return sizes | {"pad": [int(pair.split("_")[0]) for pair in fields.get("pad", "").split("x") if pair]}


def _meetings(
    size: int, kernel: int, out: int, stride: int = 1, lhs_dilate: int = 1, rhs_dilate: int = 1, pad: int = 0
) -> int:
    """How many pairs of an output's place and a kernel's meet an input, on one axis."""
    places = np.arange(out)[:, None] * stride + np.arange(kernel)[None] * rhs_dilate - pad
    return int(((places >= 0) & (places % lhs_dilate == 0) & (places // lhs_dilate < size)).sum())
