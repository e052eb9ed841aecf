"""Groups that a server writes and grades: the right ones whatever befalls it, and no answer is asked for twice."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from apple_seeds import positive, row, write_rows
from chat_service import FINE, Act, Asked, ChatService, flawed, grades, service

from tracelift_jax.errors import UserError
from tracelift_jax.groups import build, build_groups, load_groups
from tracelift_jax.groups.arithmetic_flaws import ENGINE, FLAW_KINDS
from tracelift_jax.groups.build import Recipe, Summary
from tracelift_jax.groups.chat_server import ChatServer
from tracelift_jax.groups.engine import Engine
from tracelift_jax.groups.flaw_prompts import KINDS
from tracelift_jax.groups.schema import CODE_DIMENSIONS, MATH_DIMENSIONS, POSITIVE, Rubric, Trace

SEEDS = 7
MOST = len(FLAW_KINDS)


@pytest.fixture
def seeds(tmp_path) -> Path:
    return write_rows(tmp_path / "apples.jsonl", [row(index) for index in range(SEEDS)])


def server_of(running: ChatService, **changes: Any) -> ChatServer:
    plain: dict[str, Any] = {"deadline": 30.0, "backoff": 0.01, "retries": 4, "concurrency": 5}
    return ChatServer(running.url, "fake", **plain | changes)


def recipe_of(running: ChatService, **changes: Any) -> Recipe:
    server = server_of(running, **changes)
    return Recipe(most=MOST, writers=(server,), grader=server)


def graded(text: str, names: tuple[str, ...] = MATH_DIMENSIONS) -> Rubric:
    """METHOD's labels of the server's grades."""
    told = grades(text, names)
    a, b, c, d, e = (4 if told[name] == 10 else int(told[name] / 2) for name in names)
    return Rubric((a, b, c, d, e), told["overall"] / 10)


def expected_negatives(index: int) -> set[Trace]:
    made = set()
    for kind in FLAW_KINDS:
        text = flawed(positive(index), kind)
        number = text.split()[-2]  # "... = 57 apples."
        place = text.rindex(number)
        made.add(Trace(text, graded(text), kind, (place, place + len(number))))
    return made


def check_groups(out: Path, ids: list[int]) -> None:
    groups = load_groups(out)
    assert [group.problem_id for group in groups] == [f"gsm8k/apples/{index}" for index in ids]
    for index, group in zip(ids, groups, strict=True):
        assert group.positives == (Trace(positive(index), POSITIVE),)
        assert len(group.negatives) == MOST
        assert set(group.negatives) == expected_negatives(index)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> bytes:
    """The file of a build in which nothing goes wrong."""
    folder = tmp_path_factory.mktemp("undisturbed")
    seeds = write_rows(folder / "apples.jsonl", [row(index) for index in range(SEEDS)])
    with service() as running:
        build_groups(seeds, folder / "groups.jsonl", recipe_of(running))
    check_groups(folder / "groups.jsonl", list(range(SEEDS)))
    return (folder / "groups.jsonl").read_bytes()


def test_what_is_asked_and_what_it_costs(seeds, tmp_path, undisturbed):
    rows = [row(index) for index in range(SEEDS)]
    rows += [{"question": "How many is it?", "answer": "#### 5"}, rows[1]]
    write_rows(seeds, rows)
    out, summary = tmp_path / "new" / "groups.jsonl", tmp_path / "summary.json"
    with service() as running:
        recipe = recipe_of(running, prompt_price=2.0, completion_price=10.0)
        counts = build_groups(seeds, out, recipe, summary)
        assert out.read_bytes() == undisturbed
        assert len(running.asked) == SEEDS * (1 + MOST) and running.repeated == 0
        assert 1 < running.most <= 5
        [told] = counts.servers
        prompts = sum(len(asked.prompt) for asked in running.asked)
        assert (told["requests"], told["retries"], told["cached"]) == (SEEDS * (1 + MOST), 0, 0)
        assert told["prompt_tokens"] == prompts and told["completion_tokens"] > 0
        assert told["price"] == pytest.approx((2 * prompts + 10 * told["completion_tokens"]) / 1e6)
        assert counts.dropped == {"empty": 1, "duplicate": 1}
        assert counts.kinds == dict.fromkeys(FLAW_KINDS, SEEDS)
        content = json.loads(summary.read_text())
        assert content["servers"] == counts.servers and content["dropped_traces"] == {} == content["unfinished"]
        assert content["recipe"]["grader"]["base_url"] == running.url
        # All of it again: nothing is asked.
        running.forget()
        again = build_groups(seeds, out, recipe)
        assert running.asked == [] and out.read_bytes() == undisturbed
        assert again.resumed == SEEDS and again.servers[0]["cached"] == SEEDS * (1 + MOST)
        assert again.servers[0]["price"] == 0 and again.servers[0]["price_with_cached"] == told["price"]
        assert dataclasses.replace(again, resumed=0, seconds=0, servers=[]) == dataclasses.replace(
            counts, seconds=0, servers=[]
        )
        # And into another file, from the same answers.
        build_groups(seeds, tmp_path / "b.jsonl", recipe, cache=f"{out}.answers")
        assert running.asked == [] and (tmp_path / "b.jsonl").read_bytes() == undisturbed


HANGS = (
    Act(wait=60.0),  # beyond the deadline
    Act(drip=True),  # likewise, though something comes all the time
)
TROUBLE = (
    *HANGS,
    FINE,
    Act(429, headers=(("Retry-After", "0.05"),)),
    Act(429),
    Act(500),
    Act(503, headers=(("Retry-After", "0.1"),)),
    Act(drop=True),
    Act(half=True),
    Act(wait=0.1),
    Act(body="<html>"),
    Act(body='{"error": {"message": "overloaded"}}'),
    Act(content="I would rather not."),
    Act(content='{"traces": [{"kind": "wrong_operation"}], "overall": "ten"}'),
    Act(content='{"traces": [{"kind": "nonsense", "reasoning": "some text"}], "overall": 11}'),
    Act(content=""),
    Act(content='{"traces": [{"kind": "wrong_operation", "reas', finish="length"),
)


def test_whatever_befalls_the_server(seeds, tmp_path, undisturbed):
    met = []

    def behave(asked: Asked, before: int) -> Act:
        if before == 2 or asked.again:
            return FINE
        act = TROUBLE[len(met) % len(TROUBLE)]
        met.append(act)
        return FINE if act in HANGS and len(met) > len(TROUBLE) else act

    with service(behave) as running:
        counts = build_groups(seeds, tmp_path / "groups.jsonl", recipe_of(running, deadline=3.0))
        assert len(met) > 4 * len(TROUBLE)
        assert running.repeated == 0 and running.most <= 5 and running.dripped == 0
        answered, asked = len(running.answered), len(running.asked)
    assert (tmp_path / "groups.jsonl").read_bytes() == undisturbed
    [told] = counts.servers
    assert told["requests"] == asked and told["failures"] == 0
    assert answered < asked - told["retries"] + 1 and told["retries"] > 10
    assert counts.dropped == counts.dropped_traces == counts.unfinished == {}


def test_a_seed_that_no_answer_came_for_waits(seeds, tmp_path, undisturbed):
    out = tmp_path / "groups.jsonl"
    poison = positive(2)

    def behave(asked: Asked, before: int) -> Act:
        return Act(500) if asked.writes and asked.reasoning == poison else FINE

    with service(behave) as running:
        recipe = recipe_of(running, retries=2)
        counts = build_groups(seeds, out, recipe)
        assert counts.groups == SEEDS - 1 and counts.dropped == {}
        assert counts.unfinished == {f"{running.url} (fake): 500 no, 500": 1}
        assert counts.servers[0]["failures"] == 1 and counts.servers[0]["retries"] == 2
        check_groups(out, [0, 1, 3, 4, 5, 6])
        # Still down: nothing else is asked, nothing changes.
        running.forget()
        before = out.read_bytes()
        build_groups(seeds, out, recipe)
        assert len(running.asked) == 3 and out.read_bytes() == before
        # Mended: the group comes to its place.
        running.forget()
        running.behaviour = lambda asked, before: FINE
        counts = build_groups(seeds, out, recipe)
        assert counts.unfinished == {} and counts.resumed == SEEDS - 1
        assert len(running.asked) == 1 + MOST
    assert out.read_bytes() == undisturbed


def test_answers_that_are_never_usable(seeds, tmp_path):
    bad = flawed(positive(4), "dropped_step")

    def behave(asked: Asked, before: int) -> Act:
        if asked.writes and asked.reasoning == positive(1):
            return Act(content="no")
        if asked.reasoning == bad:
            return Act(content=json.dumps(dict.fromkeys((*MATH_DIMENSIONS, "overall"), 10.5)))
        return FINE

    with service(behave) as running:
        out = tmp_path / "groups.jsonl"
        counts = build_groups(seeds, out, recipe_of(running, attempts=3))
        assert [group.problem_id[-1] for group in load_groups(out)] == ["0", "2", "3", "4", "5", "6"]
        assert counts.dropped == {"too few negatives": 1}
        assert counts.dropped_traces == {"writer: not JSON": MOST, "grader: out of range": 1}
        assert counts.kinds["dropped_step"] == SEEDS - 2
        # Three attempts each, of which the second and the third say what was wrong.
        told = [asked for asked in running.asked if asked.writes and asked.reasoning == positive(1)]
        assert [asked.again for asked in told] == [False, True, True]
        assert "the answer was not one JSON object" in told[1].prompt
        told = [asked for asked in running.asked if asked.reasoning == bad]
        assert len(told) == 3 and "problem_understanding: out of range" in told[2].prompt
        assert running.repeated == 0
        # The same outcome from what was kept.
        running.forget()
        again = build_groups(seeds, out, recipe_of(running, attempts=3))
        assert running.asked == [] and again.dropped_traces == counts.dropped_traces


def test_only_the_flaws_that_lack_are_asked_for_again(tmp_path):
    seeds = write_rows(tmp_path / "apples.jsonl", [row(0)])
    text = positive(0)
    given = {kind: flawed(text, kind) for kind in FLAW_KINDS}
    faults = {
        "wrong_calculation": "  ",
        "wrong_operation": text.upper().replace(" ", "  "),
        "wrong_quantity": "<reasoning>\n" + given["wrong_quantity"],
        "swapped_quantities": given["wrong_calculation_carried"],
        "dropped_step": "70-13",
        "contradictory_step": f"Ann picks 14*5 = 70 apples.\n...\n{given['contradictory_step']}",
        "answer_leaked": f"(answer_leaked) {given['answer_leaked']}",
    }

    def behave(asked: Asked, before: int) -> Act:
        if not asked.writes or (asked.again and "dropped_step" not in asked.kinds):
            return FINE
        texts = given | faults
        if asked.again:
            texts |= {kind: given[kind] for kind in faults if kind not in ("dropped_step", "answer_leaked")}
        del texts["unsupported_conclusion"]
        traces = [{"kind": kind, "reasoning": text, "note": 1} for kind, text in texts.items()]
        return Act(content=f"<think>{{ hm }}</think>Here it is:\n```json\n{json.dumps({'traces': traces})}\n```")

    with service(behave) as running:
        counts = build_groups(seeds, tmp_path / "groups.jsonl", recipe_of(running, attempts=3))
        writing = [asked for asked in running.asked if asked.writes]
    lacking = {*faults, "unsupported_conclusion"}
    assert [set(asked.kinds) for asked in writing] == [
        set(FLAW_KINDS),
        lacking,
        {"dropped_step", "answer_leaked", "unsupported_conclusion"},
    ]
    assert "the version for `wrong_calculation` is empty" in writing[1].prompt
    assert "the version for `unsupported_conclusion` is missing" in writing[1].prompt
    assert counts.dropped_traces == {"too short": 1, "writer: left out": 1, "placeholder": 1}
    [group] = load_groups(tmp_path / "groups.jsonl")
    kept = [kind for kind in FLAW_KINDS if kind not in ("dropped_step", "answer_leaked", "unsupported_conclusion")]
    assert {(trace.negative_kind, trace.reasoning) for trace in group.negatives} == {(k, given[k]) for k in kept}


def test_engine_and_servers_share_the_work(seeds, tmp_path):
    with service() as one, service() as two:
        writers = ("engine", server_of(one), server_of(two, temperature=0.1))
        out = tmp_path / "groups.jsonl"
        counts = build_groups(seeds, out, Recipe(negatives=6, most=6, writers=writers))
        asked = {asked.reasoning: asked for asked in one.asked}
        others = {asked.reasoning: asked for asked in two.asked}
        assert len(one.asked) == len(two.asked) == SEEDS
    assert counts.groups == SEEDS
    for group in load_groups(out):
        text = group.positives[0].reasoning
        kinds = [trace.negative_kind for trace in group.negatives]
        assert len(set(kinds)) == len(kinds) == 6
        assert kinds[:4] == asked[text].kinds + others[text].kinds  # two each of six, the engine fills
        for trace in group.negatives[:4]:
            assert trace.reasoning == flawed(text, trace.negative_kind)
            assert trace.rubric == ENGINE.severity(trace.negative_kind)
        for trace in group.negatives[4:]:
            assert trace.reasoning != flawed(text, trace.negative_kind)
    # The kinds are dealt anew for each problem.
    assert len({tuple(asked.kinds) for asked in asked.values()}) > 3


def test_a_server_grades_what_the_engine_writes(seeds, tmp_path):
    with service() as running:
        build_groups(seeds, tmp_path / "a.jsonl")
        build_groups(seeds, tmp_path / "b.jsonl", Recipe(grader=server_of(running)))
        assert not any(asked.writes for asked in running.asked)
    for ours, theirs in zip(load_groups(tmp_path / "a.jsonl"), load_groups(tmp_path / "b.jsonl"), strict=True):
        regraded = [dataclasses.replace(trace, rubric=graded(trace.reasoning)) for trace in ours.negatives]
        assert theirs == dataclasses.replace(ours, negatives=tuple(regraded))


PLAN = "Count each letter with a dictionary, then walk over the string and return the first letter counted 1 times."
PROGRAM = "from collections import Counter\ncounts = Counter(input())\nprint(next(c for c in counts if counts[c] == 1))"
CODE_KINDS = tuple(KINDS["code"])


@pytest.fixture
def programs(tmp_path, monkeypatch) -> Path:
    """Three programs, and an engine for them that makes no flaws."""
    engine = Engine(
        CODE_KINDS,
        lambda seed: seed.solution.partition("\n```")[0],
        lambda *_: [],
        lambda _: Rubric((1, 1, 1, 1, 1), 0.25),
    )
    monkeypatch.setitem(build.ENGINES, "code", engine)
    rows = [
        {
            "problem": f"Find the first single letter of {n} letters.",
            "solution": f"{n}: {PLAN}\n```python\n{PROGRAM}\n```",
        }
        for n in range(3)
    ]
    return write_rows(tmp_path / "programs.jsonl", rows)


def code_recipe(running: ChatService, **changes: Any) -> Recipe:
    server = server_of(running)
    return Recipe(**{"most": 7, "writers": (server,), "grader": server} | changes)


def test_positives_of_programs_are_graded_too(programs, tmp_path):
    out = tmp_path / "groups.jsonl"

    def behave(asked: Asked, before: int) -> Act:
        return Act(content="[]") if not asked.writes and asked.reasoning == f"1: {PLAN}" else FINE

    with service(behave) as running:
        counts = build_groups(programs, out, code_recipe(running))
        assert PROGRAM in next(asked.prompt for asked in running.asked if not asked.writes)
    assert counts.dropped == {"positive not graded": 1}
    assert counts.kinds == dict.fromkeys(CODE_KINDS, 2)
    for n, group in zip((0, 2), load_groups(out), strict=True):
        assert group.rubric_name == "code"
        assert group.positives == (Trace(f"{n}: {PLAN}", graded(f"{n}: {PLAN}", CODE_DIMENSIONS)),)
        assert {trace.negative_kind for trace in group.negatives} == set(CODE_KINDS)
        assert all(trace.rubric == graded(trace.reasoning, CODE_DIMENSIONS) for trace in group.negatives)


def test_traces_that_leak_code_can_be_dropped(programs, tmp_path):
    leaks = {
        "missed_edge_case": f"{PLAN}\n```\nx\n```",
        "wrong_algorithm": "First the modules.\nimport collections\nThen count.",
        "wrong_complexity": "def solve(text):\n    count them",
    }
    harmless = {"missed_constraint": "We import the letters; from them, def follows. counts are kept"}
    dumped = {"code_dumped": f"The counts come first.\n  {PROGRAM.splitlines()[1]}"}

    def behave(asked: Asked, before: int) -> Act:
        if not asked.writes:
            return FINE
        texts = {kind: flawed(asked.reasoning, kind) for kind in asked.kinds} | leaks | harmless | dumped
        return Act(content=json.dumps({"traces": [{"kind": k, "reasoning": t} for k, t in texts.items()]}))

    with service(behave) as running:
        counts = build_groups(programs, tmp_path / "a.jsonl", code_recipe(running, grader="engine"))
        assert counts.kinds == dict.fromkeys(CODE_KINDS, 3) and counts.dropped_traces == {}
        out, recipe = tmp_path / "b.jsonl", code_recipe(running, grader="engine", drop_leaks=True, negatives=3)
        counts = build_groups(programs, out, recipe)
        assert not any("code_dumped" in asked.kinds for asked in running.asked[3:])
    assert counts.dropped_traces == {"leaks code": 3 * len(leaks)}
    kept = [kind for kind in CODE_KINDS if kind not in leaks and kind != "code_dumped"]
    assert counts.kinds == dict.fromkeys(kept, 3) | dict.fromkeys(leaks, 0)
    assert {trace.negative_kind for group in load_groups(out) for trace in group.negatives} == set(kept)


def refused(seeds: Path, out: Path, recipe: Recipe, **more: Any) -> str:
    with pytest.raises(UserError) as caught:
        build_groups(seeds, out, recipe, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_another_build_is_not_continued_and_nothing_asked(seeds, tmp_path):
    out = tmp_path / "groups.jsonl"
    with service() as running:
        recipe = recipe_of(running)
        build_groups(seeds, out, recipe)
        content = out.read_bytes()
        running.forget()
        line = refused(seeds, out, recipe_of(running, temperature=0.3))
        assert line == (
            f"{out}: was not built from these seeds with these settings; remove it or choose another --out, "
            "or give the --cache of its answers"
        )
        assert refused(seeds, out, recipe, cache=tmp_path / "other.answers") == line
        assert refused(seeds, out, dataclasses.replace(recipe, negatives=5, most=5)).startswith(f"{out}: was not built")
        lines = content.splitlines(keepends=True)
        out.write_bytes(lines[0] + lines[1].replace(b"apples.", b"pears.", 1) + b"".join(lines[2:]))
        changed = out.read_bytes()
        assert refused(seeds, out, recipe).startswith(f"{out}: was not built")
        assert out.read_bytes() == changed
        assert running.asked == []


def test_a_cache_that_cannot_be_used(seeds, tmp_path):
    out, cache = tmp_path / "groups.jsonl", tmp_path / "kept.answers"
    with service() as running:
        recipe = recipe_of(running)
        cache.write_text("not a database, but long enough to be looked at " * 20)
        line = refused(seeds, out, recipe, cache=cache)
        assert line.startswith(f"{cache}: cannot be used as a cache of answers (file is not a database)")
        assert refused(seeds, out, recipe, cache=tmp_path).startswith(f"{tmp_path}: cannot be opened (")
        assert refused(seeds, out, recipe, cache=seeds / "x").startswith(f"{seeds / 'x'}: cannot be opened (")
        assert running.asked == []
    assert not out.exists()


def test_a_summary_holds_what_can_occur(seeds, tmp_path):
    counts = build_groups(seeds, tmp_path / "groups.jsonl")
    assert isinstance(counts, Summary) and list(counts.kinds) == list(FLAW_KINDS)
    assert counts.dropped == {} and counts.servers == []
