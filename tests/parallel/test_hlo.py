"""Compiled programs as text: what is parsed, how often loops run, what operands come from, what instructions cost."""

import jax
import jax.numpy as jnp
import pytest

from tracelift_jax.parallel.hlo import Shape, group_size, parse
from tracelift_jax.parallel.hlo_cost import Cost, Wire, wire
from tracelift_jax.parallel.hlo_walk import Walk
from tracelift_jax.parallel.roofline import measure
from tracelift_jax.parallel.topology import HOP, Chip

# A decode loop of at most 9 steps (from 1 to 10, in steps of 1, or until all are done), a layer scan of 3 inside it.
# Weights lie in 4 shards of [2,8]; `gathered` puts one layer's together inside the scan, `summed` adds up activations.
TEXT = """HloModule jit_roll, is_scheduled=true

%add.1 (a.1: f32[], b.1: f32[]) -> f32[] {
  %a.1 = f32[] parameter(0)
  %b.1 = f32[] parameter(1)
  ROOT %sum.1 = f32[] add(%a.1, %b.1)
}

%picked (p.0: bf16[3,2,8], p.1: s32[]) -> bf16[2,8] {
  %p.0 = bf16[3,2,8]{2,1,0:T(8,128)(2,1)} parameter(0)
  %p.1 = s32[]{:T(128)} parameter(1)
  %zero.p = s32[] constant(0)
  %slice.p = bf16[1,2,8]{2,1,0} dynamic-slice(%p.0, %p.1, %zero.p, %zero.p), dynamic_slice_sizes={1,2,8}
  ROOT %flat.p = bf16[2,8]{1,0} bitcast(%slice.p)
}

%layer (l.0: (s32[], bf16[4,8], bf16[3,2,8])) -> (s32[], bf16[4,8], bf16[3,2,8]) {
  %l.0 = (s32[], bf16[4,8]{1,0:T(8,128)S(1)}, bf16[3,2,8]{2,1,0}) parameter(0)
  %i.0 = s32[] get-tuple-element(%l.0), index=0
  %x.0 = bf16[4,8]{1,0:T(8,128)S(1)} get-tuple-element(%l.0), index=1
  %w.0 = bf16[3,2,8]{2,1,0} get-tuple-element(%l.0), index=2
  %one.0 = s32[] constant(1)
  %next.0 = s32[] add(%i.0, %one.0)
  %pick.0 = bf16[2,8]{1,0} fusion(%w.0, %i.0), kind=kLoop, calls=%picked
  %gathered = bf16[8,8]{1,0} all-gather(%pick.0), channel_id=1, replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}
  %product = bf16[4,8]{1,0:T(8,128)S(1)} dot(%x.0, %gathered), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %summed = bf16[4,8]{1,0:T(8,128)S(1)} all-reduce(%product), channel_id=2, replica_groups=[2,4]<=[8], to_apply=%add.1
  ROOT %out.0 = (s32[], bf16[4,8]{1,0:T(8,128)S(1)}, bf16[3,2,8]{2,1,0}) tuple(%next.0, %summed, /*index=2*/%w.0)
}

%more (m.0: (s32[], bf16[4,8], bf16[3,2,8])) -> pred[] {
  %m.0 = (s32[], bf16[4,8]{1,0}, bf16[3,2,8]{2,1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%m.0), index=0
  %three.1 = s32[] constant(3)
  ROOT %lt.1 = pred[] compare(%i.1, %three.1), direction=LT
}

%step (s.0: (s32[], bf16[4,8], bf16[3,2,8], s32[])) -> (s32[], bf16[4,8], bf16[3,2,8], s32[]) {
  %s.0 = (s32[], bf16[4,8]{1,0}, bf16[3,2,8]{2,1,0}, s32[]) parameter(0)
  %slot.0 = s32[] get-tuple-element(%s.0), index=0
  %x.1 = bf16[4,8]{1,0} get-tuple-element(%s.0), index=1
  %w.1 = bf16[3,2,8]{2,1,0} get-tuple-element(%s.0), index=2
  %size.1 = s32[] get-tuple-element(%s.0), index=3
  %one.1 = s32[] constant(1)
  %slot.1 = s32[] add(%slot.0, %one.1)
  %zero.1 = s32[] constant(0)
  %begin.1 = (s32[], bf16[4,8]{1,0}, bf16[3,2,8]{2,1,0}) tuple(%zero.1, %x.1, %w.1)
  %scan = (s32[], bf16[4,8]{1,0}, bf16[3,2,8]{2,1,0}) while(%begin.1), condition=%more, body=%layer
  %x.2 = bf16[4,8]{1,0} get-tuple-element(%scan), index=1
  ROOT %out.1 = (s32[], bf16[4,8]{1,0}, bf16[3,2,8]{2,1,0}, s32[]) tuple(%slot.1, %x.2, %w.1, %size.1)
}

%unfinished (u.0: (s32[], bf16[4,8], bf16[3,2,8], s32[])) -> pred[] {
  %u.0 = (s32[], bf16[4,8]{1,0}, bf16[3,2,8]{2,1,0}, s32[]) parameter(0)
  %slot.2 = s32[] get-tuple-element(%u.0), index=0
  %size.2 = s32[] get-tuple-element(%u.0), index=3
  %lt.2 = pred[] compare(%slot.2, %size.2), direction=LT
  %x.3 = bf16[4,8]{1,0} get-tuple-element(%u.0), index=1
  %zero.2 = bf16[] constant(0)
  %open.2 = pred[] reduce(%x.3, %zero.2), dimensions={0,1}, to_apply=%add.1
  ROOT %and.2 = pred[] and(%lt.2, %open.2)
}

ENTRY %main (Arg_0.1: bf16[3,2,8], Arg_1.2: bf16[4,8]) -> bf16[4,8] {
  %Arg_0.1 = bf16[3,2,8]{2,1,0} parameter(0), metadata={op_name="weights.planner[\\'params\\'][\\'up\\']"}
  %Arg_1.2 = bf16[4,8]{1,0} parameter(1), metadata={op_name="batch.x"}
  %one.3 = s32[] constant(1)
  %ten.3 = s32[] constant(10)
  %begin.3 = (s32[], bf16[4,8]{1,0}, bf16[3,2,8]{2,1,0}, s32[]) tuple(%one.3, %Arg_1.2, %Arg_0.1, %ten.3)
  %decode = (s32[], bf16[4,8]{1,0}, bf16[3,2,8]{2,1,0}, s32[]) while(%begin.3), condition=%unfinished, body=%step, \
metadata={op_name="jit(roll)/write/while"}
  ROOT %result = bf16[4,8]{1,0} get-tuple-element(%decode), index=1
}
"""
CHIP = Chip("a chip", memory=1e9, flops=1e9, bandwidth=1e6, link=1e3, axes=1)


def walk(text: str, weights: str = "weights") -> dict[str, object]:
    """Visits by the name of their instruction."""
    module = parse(text)
    found = Walk(module, lambda name: name.startswith(weights), lambda visit: 0.0)
    return {visit.instruction.name: visit for visit in found.visits}


def test_parsing():
    module = parse(TEXT)
    assert module.entry.name == "main" and len(module.computations) == 7
    layer = module.computations["layer"]
    assert layer.root.name == "out.0" and layer.root.operands == ("next.0", "summed", "w.0")
    named = {one.name: one for one in layer.instructions}
    assert named["product"].kind == Shape("bf16", (4, 8), space=1)
    assert named["product"].numbers("lhs_contracting_dims") == (1,)
    assert named["pick.0"].called("calls") == "picked"
    assert module.entry.parameters[0].op_name == "weights.planner['params']['up']"
    assert Shape("bf16", (3, 2, 8)).bytes == 96 and Shape("s4", (8,)).bytes == 4 and Shape("pred", ()).bytes == 1
    with pytest.raises(ValueError, match="no ENTRY"):
        parse("HloModule nothing\n")


@pytest.mark.parametrize(
    ("attributes", "size"),
    [
        ("replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}", 4),
        ("replica_groups=[2,8]<=[16]", 8),
        ("replica_groups=[4,4]<=[2,2,4]T(1,0,2), use_global_device_ids=true", 4),
        ("replica_groups=mesh['axis_0'=4,'axis_1'=1,'axis_2'=2] {'axis_0','axis_2'}", 8),
        ("source_target_pairs={{0,1},{1,0}}", 2),
        ("channel_id=3", 1),
    ],
)
def test_groups_of_collectives(attributes, size):
    assert group_size(attributes) == size


def test_loops_and_origins():
    """10 - 1 decode steps at most, 3 layers in each; the scan's gather is of weights alone, the sum is of data."""
    visits = walk(TEXT)
    gathered, summed = visits["gathered"], visits["summed"]
    assert [(loop.trips, loop.certain) for loop in gathered.loops] == [(9, False), (3, True)]
    assert gathered.times == 27 and gathered.decoding
    assert [value.origin.name for value in gathered.operands] == ["WEIGHTS"]
    assert [value.origin.name for value in summed.operands] == ["DATA"]
    assert visits["open.2"].times == 9  # conditions run in their loop
    assert gathered.place == "jit(roll)/write/while"
    assert visits["decode"].loops == () and not visits["decode"].decoding


def test_weights_mixed_with_data_are_data():
    """The same gather, of weights to which a part of the data was added before the loop."""
    mixed = TEXT.replace(
        "tuple(%one.3, %Arg_1.2, %Arg_0.1, %ten.3)", "tuple(%one.3, %Arg_1.2, %mixed.3, %ten.3)"
    ).replace("  %one.3 = s32", "  %mixed.3 = bf16[3,2,8]{2,1,0} add(%Arg_0.1, %Arg_1.2)\n  %one.3 = s32")
    assert [value.origin.name for value in walk(mixed)["gathered"].operands] == ["DATA"]
    assert [value.origin.name for value in walk(TEXT, "nothing")["gathered"].operands] == ["DATA"]


def test_a_loop_that_replaces_its_weights_by_data():
    """Only in the second round the gather sees what the first left behind: found where the loop's state settles."""
    replaced = TEXT.replace("tuple(%slot.1, %x.2, %w.1, %size.1)", "tuple(%slot.1, %x.2, %fresh.1, %size.1)").replace(
        "  %slot.1 = s32[] add", "  %fresh.1 = bf16[3,2,8]{2,1,0} broadcast(%x.1), dimensions={}\n  %slot.1 = s32[] add"
    )
    assert [value.origin.name for value in walk(replaced)["gathered"].operands] == ["DATA"]


@pytest.mark.parametrize(
    ("change", "trips"),
    [
        (("%one.3 = s32[] constant(1)", "%one.3 = s32[] constant(4)"), 6),
        (("%one.1 = s32[] constant(1)", "%one.1 = s32[] constant(2)"), 5),  # 1, 3, 5, 7, 9
        (("compare(%slot.2, %size.2), direction=LT", "compare(%size.2, %slot.2), direction=GE"), 10),
        (("compare(%slot.2, %size.2), direction=LT", "compare(%slot.2, %size.2), direction=LE"), 10),
        (("%ten.3 = s32[] constant(10)", "%ten.3 = s32[] constant(0)"), 0),
    ],
)
def test_trips(change, trips):
    assert change[0] in TEXT
    assert walk(TEXT.replace(*change))["gathered"].loops[0].trips == trips


def test_trips_that_the_compiler_noted():
    noted = TEXT.replace("body=%layer", 'body=%layer, backend_config={"known_trip_count":{"n":"7"}}')
    assert [loop.trips for loop in walk(noted)["gathered"].loops] == [9, 7]


def test_costs_by_hand():
    """Of the product 2 * 4 * 8 * 8; of a fusion that picks a layer, the layer; nothing of what lies in other memory."""
    visits, cost = walk(TEXT), Cost(parse(TEXT))
    assert cost.flops(visits["product"]) == 512 and cost.flops(visits["summed"]) == 0
    assert cost.traffic(visits["pick.0"]) == 32 + 4 + 32  # a layer of the weights, the counter, what it gives
    assert cost.traffic(visits["product"]) == 128  # the gathered weights; activations are in space 1
    assert cost.traffic(visits["gathered"]) == 0 == cost.traffic(visits["decode"])
    gathered, summed = wire(visits["gathered"]), wire(visits["summed"])
    assert (gathered.bytes, gathered.sent, gathered.hops(1)) == (128, 96, 3)
    assert (summed.bytes, summed.sent, summed.hops(1)) == (64, 96, 6)


@pytest.mark.parametrize(
    ("kind", "group", "axes", "hops"),
    [
        ("all-reduce", 256, 2, 2 * 30),  # 16 x 16: 15 along each axis, there and back
        ("all-gather", 64, 3, 9),  # 4 x 4 x 4
        ("all-gather", 4, 2, 2),
        ("all-gather", 8, 2, 4),  # 2 (2.83 - 1), rounded up
        ("all-reduce", 8, 0, 2),  # a switch
        ("collective-permute", 64, 2, 1),
    ],
)
def test_neighbours_that_a_message_passes(kind, group, axes, hops):
    assert Wire(kind, 1.0, group).hops(axes) == hops


def test_a_roofline_by_hand():
    """27 layers: the picked layer takes 68 B at 1 MB/s, the product 128 B (its 512 operations at 1 GFLOP/s take less),
    two collectives of 96 B each at 1 kB/s and 9 hops; what is left is counters, and 9 looks at 64 B of activations.
    """
    work = measure(TEXT, "roll", lambda name: name.startswith("weights"), CHIP)
    [part] = [part for part in work.parts if part.stage == "write"]
    assert part.decoding and part.name == "write, decoding"
    assert part.flops == 27 * 512 and part.sent == 27 * 192
    assert part.seconds["wires"] == pytest.approx(27 * (0.192 + 9 * HOP))
    assert part.seconds["compute"] == 0
    assert part.seconds["memory"] == pytest.approx(part.bytes / 1e6)
    scalars = 27 * (4 + 4 + 4 + 4 + 4 + 1)  # the scan's counter and comparison, once a layer
    steps = 9 * (12 + 9 + (64 + 2 + 1) + 3)  # the decode loop's own: add, compare, reduce, and
    assert part.bytes == 27 * (68 + 128) + scalars + steps
    assert work.loops == [9] and work.arguments == 96 + 64
    [sums, gathers] = sorted(work.collectives, key=lambda one: one.weights)
    assert (gathers.kind, gathers.weights, gathers.decoding) == ("all-gather", True, True)
    assert (gathers.places, gathers.times, gathers.bytes) == (1, 27, 27 * 128)
    assert (sums.kind, sums.weights, sums.decoding, sums.times) == ("all-reduce", False, True, 27)


@pytest.mark.parametrize(
    ("left", "right", "made", "attributes", "flops"),
    [
        # rows [4,5] 16 deep to 8 wide, the rows an axis of their own
        ("4,5,16", "1,16,8", "4,5,8", "window={size=1}, dim_labels=b0f_0io->b0f", 2 * 20 * 16 * 8),
        # [4,16] by [16,8] for each of 7 heads: a window over padding that sees the one input 7 times
        (
            "4,16,1",
            "16,8,7",
            "4,8,7",
            "window={size=7 pad=6_6 rhs_reversal=1}, dim_labels=bf0_io0->bf0",
            2 * 4 * 16 * 8 * 7,
        ),
        # 4 products of [5,16] by [16,8], the 4 an axis with holes between which a window of 4 steps by 3
        (
            "4,5,16",
            "4,16,8",
            "4,5,8",
            "window={size=4 stride=3 lhs_dilate=4}, dim_labels=0bf_0io->0bf",
            2 * 4 * 5 * 16 * 8,
        ),
    ],
)
def test_products_written_as_convolutions(left, right, made, attributes, flops):
    """Padding and the holes of a dilation are no work."""
    module = parse(
        f"""ENTRY %main (x: bf16[{left}], k: bf16[{right}]) -> bf16[{made}] {{
  %x = bf16[{left}] parameter(0)
  %k = bf16[{right}] parameter(1)
  ROOT %c = bf16[{made}] convolution(%x, %k), {attributes}
}}
"""
    )
    [visit] = [v for v in Walk(module, bool, lambda v: 0.0).visits if v.instruction.opcode == "convolution"]
    assert Cost(module).flops(visit) == flops


@pytest.mark.parametrize(
    ("alias", "read"),
    [(", output_to_operand_aliasing={{}: (0, {})}", 16 * 8), ("", 24 * 16 * 8)],
    ids=["stays", "moves"],
)
def test_a_layer_of_a_stack_in_other_tiles(alias, read):
    """As TPU programs pick a layer of int8: a copy in its operand's place moves nothing, one elsewhere all of it."""
    module = parse(
        f"""%retile (a: s8[24,16,8]) -> s8[24,16,8] {{
  %a = s8[24,16,8]{{2,1,0:T(32,128)(4,1)}} parameter(0)
  ROOT %copy = s8[24,16,8]{{2,1,0:T(8,128)(4,1)}} copy(%a)
}}

%pick (p: s8[24,16,8], i: s32[]) -> bf16[1,16,8] {{
  %p = s8[24,16,8]{{2,1,0:T(32,128)(4,1)}} parameter(0)
  %r = s8[24,16,8]{{2,1,0:T(8,128)(4,1)}} fusion(%p), kind=kLoop{alias}, calls=%retile
  %i = s32[] parameter(1)
  %z = s32[] constant(0)
  %d = s8[1,16,8]{{2,1,0:T(8,128)(4,1)}} dynamic-slice(%r, %i, %z, %z), dynamic_slice_sizes={{1,16,8}}
  ROOT %c = bf16[1,16,8]{{2,1,0:T(8,128)(2,1)}} convert(%d)
}}

ENTRY %main (w: s8[24,16,8], n: s32[]) -> bf16[1,16,8] {{
  %w = s8[24,16,8]{{2,1,0:T(32,128)(4,1)}} parameter(0)
  %n = s32[] parameter(1)
  ROOT %f = bf16[1,16,8]{{2,1,0:T(8,128)(2,1)}} fusion(%w, %n), kind=kLoop, calls=%pick
}}
"""
    )
    [visit] = [v for v in Walk(module, bool, lambda v: 0.0).visits if v.instruction.name == "f"]
    assert Cost(module).traffic(visit) == read + 4 + 2 * 16 * 8  # the layer number, and bfloat16 written


def test_a_compiled_program():
    """A layer scan in a decode loop, compiled for this CPU: operations as often as they run."""

    def decode(weights, x):
        def body(carry):
            slot, x = carry
            x, _ = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)
            return slot + 1, x

        return jax.lax.while_loop(lambda c: (c[0] < 20) & (c[1].sum() < 1e9), body, (jnp.int32(1), x))[1]

    arguments = jax.ShapeDtypeStruct((5, 16, 16), jnp.float32), jax.ShapeDtypeStruct((4, 16), jnp.float32)
    text = jax.jit(decode).lower(*arguments).compile().as_text()
    work = measure(text, "decode", lambda name: name.startswith("weights"), CHIP)
    assert work.loops == [19]
    assert sum(part.flops for part in work.parts) == 19 * 5 * 2 * 4 * 16 * 16
    assert work.arguments == 4 * (5 * 16 * 16 + 4 * 16)
