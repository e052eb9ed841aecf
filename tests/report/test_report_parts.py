"""What reports compute: rewards taken apart, flags, marks, differences, packing."""

import base64
import gzip
import json
import struct

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from written import config, record

from tracelift_jax.config import CodeRewardConfig, RewardConfig
from tracelift_jax.report.decompose import by_step, decompose, reward_config
from tracelift_jax.report.differences import NOTHING, differences, flat
from tracelift_jax.report.marks import Flag, Mark, Measured, first_wrong, flags
from tracelift_jax.report.pack import Strings, pack
from tracelift_jax.report.payload import payload
from tracelift_jax.report.runs import Column, Run
from tracelift_jax.report.sample import Group, Shown

# ------------------------------------------------------------------------------------------------------------- rewards

RIGHT = {"verdicts": ["ok", "wrong"], "score": 0.75, "uplift": 0.5}
HURT = {"verdicts": ["wrong", "ok"], "score": 0.75, "uplift": -0.5}


@pytest.mark.parametrize(
    ("kind", "shaping", "right", "hurt"),
    [
        # METHOD: reward = 0.5 e2e + 0.5 s u; sign-aware (1 - s) u below 0.
        ("tracelift", "product", (0.5, 0.1875), (0.0, -0.1875)),
        ("tracelift", "sign_aware", (0.5, 0.1875), (0.0, -0.0625)),
        ("exec_only", "product", (1.0, 0.0), (0.0, 0.0)),
        ("rm_only", "product", (0.5, 0.375), (0.0, 0.375)),
        ("uplift_only", "product", (0.5, 0.25), (0.0, -0.25)),
    ],
)
def test_parts_of_math_rewards(kind, shaping, right, hurt):
    parts = decompose([record(**RIGHT), record(**HURT)], RewardConfig(kind=kind, shaping=shaping))
    assert parts.outcome.tolist() == [right[0], hurt[0]]
    assert parts.quality.tolist() == [right[1], hurt[1]]
    assert parts.coefficient is None


def program(outcome, tests, with_counts, without_counts, **more):
    told = {"outcomes": [outcome, "passed"], "tests": [tests, [2, 2]], "verdicts": ["wrong", "ok"], "score": 0.5}
    return record(**told | {"with_counts": with_counts, "without_counts": without_counts} | more)


PROGRAMS = [
    program("passed", [4, 4], [3, 3], [1, 3]),  # coefficient 1
    program("wrong_output", [1, 4], [0, 3], [2, 8]),  # -1
    program("timeout", [0, 4], [1, 3], [1, 3]),  # a tie of one in three: 0.5
    program("passed", [4, 4], [3, 3], [3, 3], well_formed=False),  # a tie of all: 1; but no program counts
    program("does_not_compile", [0, 4], [0, 3], [0, 3]),  # 0
]


@pytest.mark.parametrize(
    ("changes", "outcome", "quality"),
    [
        # hybrid: 0.8 of the pass rate, + 0.2 ran to the end, + 0.05 stopped
        ({}, [1.0, 0.4, 0.05, 0.0, 0.0], [0.1, -0.1, 0.05, 0.1, 0.0]),
        ({"malformed": "execute"}, [1.0, 0.4, 0.05, 1.0, 0.0], [0.1, -0.1, 0.05, 0.1, 0.0]),
        ({"exec_style": "coderl"}, [1.0, -0.3, -0.6, -1.0, -1.0], [0.1, -0.1, 0.05, 0.1, 0.0]),
        ({"exec_style": "binary", "kind": "exec_only"}, [1.0, 0.0, 0.0, 0.0, 0.0], [0.0] * 5),
        ({"exec_style": "pass_rate", "kind": "rm_only"}, [1.0, 0.25, 0.0, 0.0, 0.0], [0.1] * 5),
        ({"kind": "uplift_only", "weight": 1.0}, [1.0, 0.4, 0.05, 0.0, 0.0], [1.0, -1.0, 0.5, 1.0, 0.0]),
        ({"clip_reward": True}, [1.0, 0.4, 0.05, 0.0, 0.0], [0.1, -0.1, 0.05, 0.1, 0.0]),
        ({"tie_table": ((1, 0.25),)}, [1.0, 0.4, 0.05, 0.0, 0.0], [0.1, -0.1, 0.025, 0.1, 0.0]),
    ],
)
def test_parts_of_code_rewards(changes, outcome, quality):
    parts = decompose(PROGRAMS, CodeRewardConfig(**{"shaping": "product"} | changes))
    np.testing.assert_allclose(parts.outcome, outcome, atol=1e-6)
    np.testing.assert_allclose(parts.quality, quality, atol=1e-6)
    assert parts.coefficient is not None
    np.testing.assert_allclose(parts.coefficient[[0, 1, 4]], [1, -1, 0])


def test_an_answer_that_never_came_is_worth_nothing_in_itself():
    parts = decompose([program(None, None, [0, 0], [1, 3])], CodeRewardConfig())
    assert (parts.outcome.tolist(), parts.quality.tolist()) == ([0.0], [0.0])


def test_means_by_step_add_up():
    groups = [
        Group(3, [record(step=3, reward=0.75), record(step=3, reward=9.0, counted=False)]),
        Group(3, [record(step=3, reward=0.25)]),
        Group(5, [record(step=5, reward=9.0, counted=False)]),
    ]
    parts = decompose([r for g in groups for r in g.records], RewardConfig())  # each 0.5 + 0.5 * 0.75 * 0.5
    assert by_step(groups, parts) == {
        "step": [3, 5],
        "traces": [2, 0],
        "outcome": [0.5, None],
        "quality": [0.1875, None],
        "rest": [-0.1875, None],  # what these records claim is no sum of their parts
        "reward": [0.5, None],
    }


def test_settings_are_read_back():
    for reward in (RewardConfig(kind="rm_only", shaping="product"), CodeRewardConfig(tie_table=((1, 0.25), (2, 0.5)))):
        assert reward_config(config(reward)) == reward
    unknown = config()
    unknown["roles"]["reward"]["bonus"] = 1.0
    assert reward_config(unknown) is None
    unknown["roles"]["reward"] = {"__class__": "OtherReward"}
    assert reward_config(unknown) is None and reward_config({}) is None


# --------------------------------------------------------------------------------------------------- flags and marks

ALL = Measured("likelihood", grade=True, kind="tracelift")
SAMPLED = Measured("sampled", grade=True, kind="tracelift")


@pytest.mark.parametrize(
    ("changes", "measured", "found"),
    [
        ({}, ALL, Flag(0)),
        ({"faithful": False}, ALL, Flag.WRONG_REASON),
        ({"faithful": False, "verdicts": ["wrong", "ok"]}, ALL, Flag(0)),
        ({"score": 0.8, "uplift": 0.0}, ALL, Flag.USELESS),
        ({"score": 0.79, "uplift": -1.0}, ALL, Flag(0)),
        ({"score": 0.8, "uplift": 0.01}, ALL, Flag(0)),
        ({"score": 0.9, "uplift": 0.0}, Measured("none", grade=True, kind="rm_only"), Flag(0)),
        ({"score": 0.9, "uplift": 0.0}, Measured("likelihood", grade=False, kind="uplift_only"), Flag(0)),
        ({"score": 0.9, "uplift": 0.0, "with_counts": [1, 3], "without_counts": [2, 6]}, SAMPLED, Flag.USELESS),
        ({"score": 0.9, "uplift": 0.0, "with_counts": [0, 0], "without_counts": [2, 6]}, SAMPLED, Flag(0)),
        ({"reasoning": " = 4 "}, ALL, Flag.LEAK),
        ({"reasoning": " = 5 "}, ALL, Flag(0)),
        ({"reasoning": "Up, then doubled. The answer is 4."}, ALL, Flag.LEAK),
        ({"reasoning": "The answer is x + 1", "reference": "x + 1"}, ALL, Flag.LEAK),
        ({"reasoning": "It is x + 1", "reference": "x + 1"}, ALL, Flag(0)),
        ({"reasoning": "run print(4)", "reference": "print(4)", "outcomes": ["passed"]}, ALL, Flag.LEAK),
        ({"verdicts": ["ok", "failed"]}, ALL, Flag.FAILED),
        ({"well_formed": False, "counted": False}, ALL, Flag.MALFORMED | Flag.NOT_COUNTED),
    ],
)
def test_flags(changes, measured, found):
    assert flags(record(**changes), measured) == found


def test_what_a_run_measures():
    told = config(RewardConfig(kind="exec_only", uplift="none"))
    told["roles"]["reward_model"] = None
    assert Measured.of(told) == Measured("none", grade=False, kind="exec_only")
    assert Measured.of(config()) == ALL


@pytest.mark.parametrize(
    ("reasoning", "shown", "step", "expected"),
    [
        (" 7 + 5 = 3 ; 3 * 2 = 6 ", "7 + 5 = 3", 1, "7 + 5 = 2"),
        ("7 + 5 = 2 ; 2 * 3 = 6", "2 * 3 = 6", 2, "2 * 2 = 4"),
        (" 7 + 5 = 2 ", "", 2, "2 * 2 = 4"),
        ("7 + 5 = 2 ; 2 * 2 = 4 ; 4 + 1 = 5", "4 + 1 = 5", 3, ""),
    ],
)
def test_the_first_wrong_step(reasoning, shown, step, expected):
    mark = first_wrong(record(reasoning=reasoning, faithful=False))
    assert mark is not None
    assert (reasoning[mark.begin : mark.end], mark.step, mark.expected) == (shown, step, expected)
    if not shown:
        assert reasoning[: mark.begin].rstrip() == reasoning.rstrip()


def test_where_there_is_no_first_wrong_step():
    assert first_wrong(record()) is None
    assert first_wrong(record(reasoning="no steps at all", faithful=False)) is None
    assert first_wrong(record(problem="How many hats?", faithful=False)) is None
    assert first_wrong(record(problem="", faithful=False)) is None
    assert Mark(0, 9, 1, "7 + 5 = 2") == first_wrong(record(reasoning="7 + 5 = 3 ; 3 * 2 = 6", faithful=False))


# ------------------------------------------------------------------------------------------------------- differences


def test_differences():
    a = {
        "__class__": "Train",
        "seed": 0,
        "model": {"__class__": "Model", "width": 8},
        "lora": None,
        "rules": [["a", "b"]],
    }
    b = a | {"seed": 0.0, "lora": {"__class__": "Lora", "rank": 2}, "rules": [["a", "c"]], "extra": []}
    assert flat(a) == {
        "experiment": "Train",
        "seed": 0,
        "model": "Model",
        "model.width": 8,
        "lora": None,
        "rules.0": ["a", "b"],
    }
    assert differences([a, b]) == [
        ("seed", [0, 0.0]),
        ("lora", [None, "Lora"]),  # its rank goes without saying
        ("rules.0", [["a", "b"], ["a", "c"]]),
        ("extra", [NOTHING, []]),
    ]
    c = a | {"lora": {"__class__": "Lora", "rank": 4}}
    assert differences([a, b, c])[2] == ("lora.rank", [NOTHING, 2, 4])
    assert differences([a, a]) == [] == differences([a])


# ----------------------------------------------------------------------------------------------------------- packing


def unpack(text: str):
    """An independent reading of `pack`."""
    whole = gzip.decompress(base64.b64decode(text))
    (length,) = struct.unpack_from("<I", whole)
    header = json.loads(whole[4 : 4 + length])
    columns = {
        name: np.frombuffer(whole, f"<f{at['width']}", at["length"], 4 + length + at["offset"]).tolist()
        for name, at in header.pop("columns").items()
    }
    assert (4 + length) % 8 == 0
    return header, columns


@given(
    st.dictionaries(st.text(max_size=3), st.lists(st.floats(width=32) | st.floats(), max_size=4), max_size=3),
    st.text(max_size=9),
)
def test_packing_loses_nothing(floats, text):
    header, columns = unpack(pack({"text": text}, floats))
    assert header == {"text": text}
    assert columns.keys() == floats.keys()
    for name, values in floats.items():
        np.testing.assert_array_equal(columns[name], values)


def test_float32_takes_four_bytes():
    def widths(**floats):
        whole = gzip.decompress(base64.b64decode(pack({}, floats)))
        columns = json.loads(whole[4 : 4 + struct.unpack_from("<I", whole)[0]])["columns"]
        return {name: at["width"] for name, at in columns.items()}

    assert widths(a=[float(np.float32(0.1)), float("nan")], b=[0.1], c=[1e300]) == {"a": 4, "b": 8, "c": 8}


def test_strings_once():
    strings = Strings()
    assert [strings.place(text) for text in ("a", "b", None, "a")] == [0, 1, -1, 0]
    assert strings.all() == ["a", "b"]


def test_places_are_counted_as_browsers_do(tmp_path):
    reasoning = "7 + 5 = 3 ; 3 * 2 = 6"
    plain = Group(1, [record(reasoning=reasoning, faithful=False)])
    run = Run(tmp_path, "r", config(), "", {"a/b": Column((1,), (None,))}, 1, {}, ())
    header, _ = payload([run], [Shown([plain], 1, 1, False, ())])
    assert header["traces"]["mark"] == [[0, 9, 1, header["strings"].index("7 + 5 = 2")]]
    assert header["runs"][0]["metrics"] == {"a/b": {"steps": (1,), "values": (None,)}}
