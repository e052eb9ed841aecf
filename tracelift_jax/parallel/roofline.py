"""How long a compiled program takes at least, by what its chip can do at best.

Every instruction takes the longer of its products at peak speed and its bytes at full bandwidth, and nothing runs
beside it; a collective takes the bytes it sends to its neighbour at a link's speed in one direction, as if its group
stood in line, and `topology.HOP` for each neighbour that a message passes. Loops run as often as they can at most.
Sorting, softmax and all else that is no product count by their bytes alone, kernels that XLA calls but does not look
into likewise.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence

from tracelift_jax.parallel.hlo import arrays, parse
from tracelift_jax.parallel.hlo_cost import Cost, Wire, wire
from tracelift_jax.parallel.hlo_walk import Origin, Visit, Walk, origin
from tracelift_jax.parallel.topology import HOP, Chip

STAGES = ("write", "execute", "grade", "judge")
"""Named scopes of a rollout."""
KERNEL = 'custom_call_target="tpu_custom_call"'
"""How the text has a kernel written for the chip."""


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of a program.

    Attributes:
        decoding: inside a decode loop, as often as it runs at most.
        flops, bytes, sent: of one chip.
        seconds: by what takes them: "compute", "memory" or "wires".
    """

    stage: str
    decoding: bool
    flops: float
    bytes: float
    sent: float
    seconds: dict[str, float]

    @property
    def name(self) -> str:
        """Stage, and whether it decodes."""
        return f"{self.stage}, decoding" if self.decoding else self.stage

    @property
    def total(self) -> float:
        """Seconds in all."""
        return sum(self.seconds.values())


@dataclasses.dataclass(frozen=True)
class Collectives:
    """Collectives of one kind.

    Attributes:
        decoding: inside a decode loop. weights: what they move comes from weights alone.
        places: how many stand in the program. times: how often they run at most. bytes: what they join on a device, in
            all.
    """

    kind: str
    decoding: bool
    weights: bool
    places: int
    times: int
    bytes: float


@dataclasses.dataclass(frozen=True)
class Work:
    """What a program does on one chip.

    Attributes:
        arguments: bytes of its arguments without the padding of layouts.
        loops: most trips of its decode loops, in order.
        kernels: places where it calls kernels whose operations nobody counts.
    """

    parts: Sequence[Part]
    collectives: Sequence[Collectives]
    arguments: float
    loops: Sequence[int]
    kernels: int

    @property
    def seconds(self) -> float:
        """At least."""
        return sum(part.total for part in self.parts)


def measure(text: str, name: str, is_weight: Callable[[str], bool], chip: Chip) -> Work:
    """What the program `compiled.as_text()` tells of does.

    Args:
        name: of what belongs to none of the stages.
        is_weight: tells from an argument's name whether it holds weights.
    """
    module = parse(text)
    cost = Cost(module)

    def weigh(visit: Visit) -> float:
        return visit.times * (cost.flops(visit) / chip.flops + cost.traffic(visit) / chip.bandwidth)

    walk = Walk(module, is_weight, weigh)
    sums: dict[tuple[str, bool], Counter] = {}
    kinds: dict[tuple[str, bool, bool], list[tuple[int, Wire]]] = {}
    for visit in walk.visits:
        flops, moved, joined = cost.flops(visit), cost.traffic(visit), wire(visit)
        sent = joined.sent if joined else 0.0
        if not (flops or moved or sent):
            continue
        times, key = visit.times, (_stage(visit.place, name), visit.decoding)
        seconds = {"compute": flops / chip.flops, "memory": moved / chip.bandwidth}
        longest = max(seconds, key=lambda what: seconds[what])
        total = sums.setdefault(key, Counter())
        total.update({"flops": times * flops, "bytes": times * moved, "sent": times * sent})
        total.update({longest: times * seconds[longest]})
        if joined:
            total.update({"wires": times * (sent / chip.link + joined.hops(chip.axes) * HOP)})
            moves = any(origin(operand) is Origin.WEIGHTS for operand in visit.operands)
            kinds.setdefault((joined.kind, visit.decoding, moves), []).append((times, joined))
    return Work(
        parts=[_part(*key, total) for key, total in sums.items()],
        collectives=[
            Collectives(*key, len(found), sum(n for n, _ in found), sum(n * one.bytes for n, one in found))
            for key, found in sorted(kinds.items())
        ],
        arguments=sum(shape.bytes for each in module.entry.parameters for shape in arrays(each.kind)),
        loops=sorted({next(n.trips for n in visit.loops if not n.certain) for visit in walk.visits if visit.decoding}),
        kernels=sum(KERNEL in visit.instruction.rest for visit in walk.visits),
    )


def _part(stage: str, decoding: bool, total: Counter) -> Part:
    seconds = {what: float(total[what]) for what in ("compute", "memory", "wires")}
    return Part(stage, decoding, float(total["flops"]), float(total["bytes"]), float(total["sent"]), seconds)


def _stage(place: str, name: str) -> str:
    steps = place.split("/")
    return steps[1] if len(steps) > 1 and steps[1] in STAGES else name
