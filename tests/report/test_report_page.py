"""The page in a browser: its numbers are the records', its filters filter, its search finds, its keys work."""

import json
import random
import time

import numpy as np
import pytest
from written import config, drawn, float32, large_run, metrics, record, write_run

from tracelift_jax.config import CodeRewardConfig, RewardConfig
from tracelift_jax.report.command import run_report
from tracelift_jax.report.marks import Flag, Measured, flags

LOADS_WITHIN = 5.0
"""Seconds for a page with 10,000 traces, on a slow and busy machine."""

HOSTILE = (
    "</script><script>window.taken = 1</script><img src=x onerror='window.taken = 2'> & \"<b>\" \u2028 🎯 {{data}}"
)
FLOATS = ("reward", "advantage", "uplift", "likelihood", "baseline_likelihood", "total", "score")


def first_run() -> list[dict]:
    """Four steps of three problems with four traces, and one trace of every kind there is to find."""
    rng = random.Random(3)
    made = [drawn(rng, step, 10 * step + p, trace) for step in (1, 2, 3, 4) for p in range(3) for trace in range(4)]
    known = {"problem_id": "dial/1", "step": 5}
    return [
        *made,
        record(**known, faithful=False, reasoning=" 7 + 5 = 3 ; 2 * 2 = 4 ", reward=0.5),
        record(**known, trace=1, score=0.9, uplift=-0.25, reward=float32(0.4875)),
        record(**known, trace=2, reasoning="The answer is 4", faithful=False, reward=0.375, verdicts=["wrong"]),
        record(**known, trace=3, verdicts=["failed"], answers=[None], counted=False, reward=0.0),
        record(**known, trace=4, reasoning="", well_formed=False, verdicts=["wrong"], faithful=False, reward=-0.125),
        record(step=6, problem_id=HOSTILE, problem=HOSTILE, reference=HOSTILE, reasoning=HOSTILE, answers=[HOSTILE]),
    ]


def programs() -> list[dict]:
    """One group of programs: no reasoning model's likelihoods, no oracle."""
    told = {"problem_id": "sum/1", "problem": "Print the sum of two numbers.", "reference": "", "reward": 1.125}
    told |= {"answer_tokens": None, "with_counts": [2, 3], "without_counts": [1, 3], "likelihood": 0.0}
    passed = record(
        **told,
        reasoning="Read two numbers, print their sum.",
        answers=["print(sum(map(int, input().split())))", "print(1 <", None, "print(3)"],
        verdicts=["ok", "wrong", "failed", "ok"],
        outcomes=["passed", "does_not_compile", None, "passed"],
        tests=[[2, 2], [0, 2], None, [2, 2]],
        without_answers=["print(0)", None, "print(3)"],
        score=0.625,
        uplift=float32(1 / 3),
    )
    del passed["faithful"]
    return [passed]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The page of two runs, the first of which has a name to beware of."""
    folder = tmp_path_factory.mktemp("runs")
    first = write_run(folder / "a <i>&amp; 'b'", first_run(), metrics(4, random.Random(0)))
    code = config(CodeRewardConfig(shaping="product"), seed=1)
    second = write_run(folder / "code", programs(), metrics(4, random.Random(1)), code)
    run_report([str(first), str(second)], None, 1000)
    return first / "report.html"


@pytest.fixture
def page(browser, report):
    browser.problems.clear()
    browser.size(1280, 900)
    browser.prefer("light")
    browser.open(report)
    yield browser
    assert browser.problems == []


def records() -> list[dict]:
    return [*first_run(), *programs()]


def chosen(page) -> int:
    return page.ask("inspector.chosen")


def numbers(page, where: str) -> list[float]:
    return [
        float(text)
        for text in page.ask(f"[...document.querySelectorAll('{where} [data-exact]')].map(e => e.dataset.exact)")
    ]


def listed(page) -> list[int]:
    return page.ask("inspector.rows.map(row => row.trace).filter(trace => trace >= 0)")


def text(page, where: str) -> str:
    return page.ask(f"document.querySelector('{where}').textContent")


# ---------------------------------------------------------------------------------------------- nothing else than data


def test_nothing_is_asked_of_any_network_and_nothing_runs_that_was_written(page, report):
    page.requests.clear()
    page.open(report)
    for name in ("curves", "rewards", "health", "settings", "traces"):
        page.ask(f"openPanel('{name}')")
    shown(page)
    assert set(page.requests) <= {"about:blank", page.ask("location.href.split('#')[0]")} and page.requests
    assert page.ask("window.taken") is None
    assert page.ask("document.querySelectorAll('img, i, b').length") < 100 and page.ask("document.images.length") == 0
    assert page.ask("document.title") == "a <i>&amp; 'b', code · tracelift report"
    source = report.read_text()
    assert 'http-equiv="Content-Security-Policy" content="default-src \'none\';' in source
    assert source.count("</script>") == 2 and "window.taken" not in source


def shown(page) -> list[dict]:
    """What the inspector shows of every trace: texts, and the exact numbers."""
    return page.ask("""Array.from({length: report.count}, (_, trace) => {
      inspector.open(trace);
      const part = name => document.querySelector(name);
      const texts = name => [...part(name).children].map(e => e.firstChild.textContent);
      const numbers = name => [...part(name).querySelectorAll("[data-exact]")].map(e => Number(e.dataset.exact));
      return {problem: part("#problem").textContent, reasoning: part("#reasoning").textContent,
        answers: texts("#with"), reward: numbers("#reward"), uplift: numbers("#uplift"), rubric: numbers("#rubric"),
        told: part("#uplift").textContent};
    })""")


def test_texts_are_shown_as_they_were_written(page):
    for there, told in zip(shown(page), records(), strict=True):
        assert there["problem"] == told["problem"]
        assert there["reasoning"] == (told["reasoning"] or "empty")
        assert there["answers"] == ["no answer came" if answer is None else answer for answer in told["answers"]]


# ------------------------------------------------------------------------------------------------------------- numbers


def test_numbers_are_those_of_the_records_exactly(page):
    for there, told in zip(shown(page), records(), strict=True):
        assert (there["reward"][0], there["reward"][-1]) == (told["reward"], told["advantage"])
        if "outcomes" in told:
            assert there["uplift"] == [told["uplift"], 1.0]  # the coefficient
            assert "right in 2 of 3 with the reasoning, in 1 of 3 without" in there["told"]
        else:
            assert there["uplift"] == [told["uplift"], told["likelihood"], told["baseline_likelihood"]]
        assert there["rubric"] == [*told["rubric"], told["total"], told["score"]]


def test_columns_are_those_of_the_records_exactly(page):
    for name in FLOATS:
        assert page.ask(f"[...report.traces.{name}]") == [told[name] for told in records()]


def test_a_reward_is_worked_out(page):
    page.ask(f"inspector.open({len(first_run()) - 5})")  # graded 0.9 with uplift -0.25
    assert text(page, "#reward").startswith(
        "reward 0.4875 = 0.5000 + −0.0125: outcome ½ · 1, quality ½ · (1 − 0.9000) · (−0.2500)"
    )
    page.ask(f"inspector.open({len(first_run())})")
    assert text(page, "#reward").startswith(
        "reward 1.1250 = 1.0000 + 0.1250: outcome exec, quality 0.2 · 0.6250 · 1.0000"
    )
    assert "wrong does not compile, 0 of 2 tests" in text(page, "#with")
    assert page.ask("[...document.querySelectorAll('#without > li')].map(e => e.textContent)") == [
        "print(0)",
        "no answer came",
        "print(3)",
    ]
    assert "plan quality" in text(page, "#rubric")


def test_groups_are_ranked_by_reward(page):
    page.ask("inspector.open(5)")
    group = [told for told in records() if told["problem_id"] == records()[5]["problem_id"]]
    ranked = sorted(group, key=lambda told: -told["reward"])
    rewards = page.ask(
        "[...document.querySelectorAll('#group tbody tr')].map(e => e.querySelector('td .num').dataset.exact)"
    )
    assert [float(value) for value in rewards] == [told["reward"] for told in ranked]
    assert text(page, "#detail").count(f"rank {ranked.index(records()[5]) + 1} of 4") == 1
    page.ask("document.querySelector('#group tbody tr:nth-child(4) button').click()")
    assert records()[chosen(page)] == ranked[3]


def test_the_first_wrong_step_is_marked(page):
    page.ask(f"inspector.open({len(first_run()) - 6})")
    assert text(page, "#reasoning mark") == "7 + 5 = 3"
    assert text(page, "#oracle") == "✗ not faithful: step 1 is the first wrong one; a faithful trace has 7 + 5 = 2"
    assert "right for the wrong reason" in text(page, ".where:not(.steer)")


def test_curves_are_those_of_the_metrics(page):
    rows = metrics(4, random.Random(0))
    [line, _] = page.ask("linesOf(report, 'reward/mean').map(({steps, values, color}) => ({steps, values, color}))")
    assert (line["steps"], line["values"]) == ([1, 2, 3, 4], [row["reward/mean"] for row in rows[1:-1]])
    [points, _] = page.ask("linesOf(report, 'eval/sampled/accuracy')")
    assert points["sparse"] and (points["values"], points["low"], points["high"]) == (
        [0.5, 0.9],
        [0.46, 0.86],
        [0.53, 0.93],
    )
    assert numbers(page, "#final")[:2] == [0.5, 0.9]
    page.wait("[...charts.all].some(chart => chart.plot)")
    plotted = page.ask(
        "[...charts.all].filter(chart => chart.plot).map(chart => chart.plot.data.map(column => [...column]))"
    )
    [accuracy] = [columns for columns in plotted if columns[0] == [0, 4]]
    assert [0.5, 0.9] in accuracy and [0.46, 0.86] in accuracy and [0.53, 0.93] in accuracy
    page.ask("document.querySelector('[data-run=code]').click()")
    assert page.ask("linesOf(report, 'reward/mean').length") == 1


def test_rewards_over_time_are_means_of_the_records(page):
    parts = page.ask("report.runs[0].parts")
    for place, step in enumerate(parts["step"]):
        here = [told["reward"] for told in first_run() if told["step"] == step and told["counted"]]
        assert parts["reward"][place] == pytest.approx(np.mean(here))
        assert parts["outcome"][place] + parts["quality"][place] + parts["rest"][place] == pytest.approx(
            parts["reward"][place]
        )
    assert all(abs(rest) < 1e-6 for rest in parts["rest"][:4])  # of the records whose rewards were computed
    page.ask("openPanel('rewards')")
    figures = "[...document.querySelectorAll('#panel-rewards figure:not([hidden])')].length"
    assert page.ask(figures) == 6
    page.ask("document.querySelector('[data-run=code]').click()")
    assert page.ask(figures) == 3
    assert "(grade · uplift where it is ≥ 0, else (1 − grade) · uplift)" in text(page, "#panel-rewards")


def test_a_point_leads_to_its_trace(page):
    page.ask("openPanel('rewards')")
    scatter = "[...charts.all].find(chart => chart.plot && chart.host.clientHeight >= 260)"
    page.wait(f"{scatter} !== undefined")
    [trace, x, y] = page.ask(f"""{{
      const {{plot}} = {scatter}, [trace] = report.ranked[0];
      plot.over.scrollIntoView({{block: "center", behavior: "instant"}});
      const box = plot.over.getBoundingClientRect();
      [trace, box.left + plot.valToPos(report.traces.uplift[trace], "x"),
        box.top + plot.valToPos(report.traces.reward[trace], "y")];
    }}""")
    page.click(x, y)
    assert chosen(page) == trace and not page.ask("document.querySelector('#panel-traces').hidden")


def test_smoothing_redraws_what_is_in_view(page):
    page.wait("[...charts.all].some(chart => chart.plot && chart.plot.data.length > 2)")
    lines = "[...charts.all].filter(chart => chart.inView).flatMap(chart => chart.plot.data.slice(1).map(c => [...c]))"
    raw = [row["reward/mean"] for row in metrics(4, random.Random(0))[1:-1]]

    def smoothing(value: float) -> list:
        page.ask(
            f"{{ const e = document.querySelector('#smoothing'); e.value = '{value}'; "
            "e.dispatchEvent(new Event('input')); }"
        )
        return [column for column in page.ask(lines) if column[0] == raw[0]]

    assert smoothing(0) == [raw]
    faint, strong = smoothing(0.5)
    assert faint == raw and strong == pytest.approx(page.ask(f"smooth({json.dumps(raw)}, 0.5)"))


def test_a_run_that_collapsed(page, tmp_path):
    bad = record(reward=float("nan"), uplift=float("nan"), score=float("nan"), advantage=float("nan"), trace=1)
    run_dir = write_run(
        tmp_path / "nan", [record(), bad], [{"step": 1, "reward/mean": None, "loss/total": float("nan")}]
    )
    run_report([str(run_dir)], None, 100)
    page.open(run_dir / "report.html")
    assert page.ask("[report.runs[0].parts.reward, report.runs[0].metrics['loss/total'].values]") == [[None], [None]]
    for name in ("rewards", "health", "traces"):
        page.ask(f"openPanel('{name}')")
    page.ask("inspector.open(1)")
    assert text(page, "#reward").startswith("reward NaN") and "rank 2 of 2" in text(page, "#detail")


def test_settings_that_differ(page):
    page.ask("openPanel('settings')")
    shown = page.ask(
        "[...document.querySelectorAll('#differences tbody tr')].map(e => [...e.children].map(c => c.textContent))"
    )
    assert ["roles.reward", '"RewardConfig"', '"CodeRewardConfig"'] in shown and ["seed", "0", "1"] in shown
    assert ["roles.reward.weight", "not there", "0.2"] in shown
    assert not [row for row in shown if row[1] == row[2]]


# ------------------------------------------------------------------------------------------------- finding and moving


def expected(flag: Flag) -> list[int]:
    measured = [Measured.of(config()), Measured.of(config(CodeRewardConfig()))]
    whose = [measured["outcomes" in told] for told in records()]
    return [place for place, told in enumerate(records()) if flags(told, whose[place]) & flag == flag]


NAMES = {
    Flag.WRONG_REASON: "wrong reason",
    Flag.USELESS: "useless",
    Flag.LEAK: "leak",
    Flag.FAILED: "failure",
    Flag.MALFORMED: "malformed",
    Flag.NOT_COUNTED: "not counted",
}


def test_filters_filter(page):
    page.ask("openPanel('traces')")
    every = len(records())
    for flag, name in NAMES.items():
        button = f"document.querySelector('[data-flag=\"{name}\"]')"
        there = expected(flag)
        assert there
        assert page.ask(f"{button}.lastChild.textContent") == str(len(there))
        page.ask(f"{button}.click()")
        assert sorted(listed(page)) == there and chosen(page) in there
        assert text(page, "#count") == f"{len(there)} of {every} traces"
        page.ask(f"{button}.click()")
    assert len(listed(page)) == every
    for name in ("failure", "not counted"):
        page.ask(f"document.querySelector('[data-flag=\"{name}\"]').click()")
    assert listed(page) == expected(Flag.FAILED | Flag.NOT_COUNTED) != expected(Flag.FAILED)
    page.key("c")
    assert len(listed(page)) == every


def test_choices_filter(page):
    page.ask("openPanel('traces')")

    def choose(name: str, value: str) -> list[int]:
        page.ask(
            f"{{ const e = document.querySelector('#filter-{name}'); e.value = '{value}'; "
            "e.dispatchEvent(new Event('change')); }"
        )
        return sorted(listed(page))

    told = records()
    assert choose("answer", "w") == [i for i, one in enumerate(told) if one["verdicts"][0] == "wrong"]
    assert choose("step", "2") == [
        i for i, one in enumerate(told) if one["verdicts"][0] == "wrong" and one["step"] == 2
    ]
    assert choose("run", "1") == []  # which has no step 2, so that all its steps are shown; none is wrong
    assert choose("answer", "") == [len(told) - 1]
    assert choose("faithful", "0") == []
    choose("run", "")
    assert choose("faithful", "0") == [i for i, one in enumerate(told) if one.get("faithful") is False]
    choose("faithful", "")
    choose("order", "worst")
    order = [told[i]["reward"] for i in listed(page)]
    assert order == sorted(order) and len(order) == len(told)


def test_search_finds(page):
    page.ask("openPanel('traces')")
    page.key("/")
    assert page.ask("document.activeElement.id") == "search"
    for letter in "ANSWER is":
        page.key(letter)
    page.wait("inspector.query === 'answer is'")
    assert listed(page) == [i for i, told in enumerate(records()) if "answer is" in told["reasoning"].lower()]
    assert text(page, "#reasoning mark.hit") == "answer is"
    page.key("Escape")
    page.key("c")
    for query in ("does_not", "sum/1", "print(0)", "img src=x", "no such text"):
        page.ask(f"inspector.query = {json.dumps(query)}; inspector.filter()")
        fields = ("problem", "problem_id", "reasoning", "answers", "without_answers")
        there = [i for i, told in enumerate(records()) if query in "\n".join(str(told[name]) for name in fields)]
        assert listed(page) == there
    assert text(page, "#detail") == "No trace passes the filters."


def test_keys_move(page):
    page.key("5")
    order, told = listed(page), records()
    assert chosen(page) == order[0] and not page.ask("document.querySelector('#panel-traces').hidden")
    page.key("j")
    page.key("ArrowDown")
    assert chosen(page) == order[2]
    page.key("k")
    page.key("ArrowUp")
    page.key("k")
    assert chosen(page) == order[0]
    page.key("ArrowRight")
    assert told[chosen(page)]["problem_id"] == told[4]["problem_id"] and "rank 1 of 4" in text(page, "#detail")
    page.key("ArrowRight")
    page.key("ArrowLeft")
    assert told[chosen(page)]["problem_id"] == told[4]["problem_id"] and "rank 1 of 4" in text(page, "#detail")
    page.key("]")
    assert told[chosen(page)]["step"] == 2
    page.key("]")
    page.key("[")
    assert (told[chosen(page)]["step"], told[chosen(page)]["problem_id"]) == (2, told[12]["problem_id"])
    page.wait(f"location.hash === '#trace={chosen(page)}'")
    selected = page.ask("document.querySelector('#list [aria-selected=true]').dataset.trace")
    assert selected == str(chosen(page))
    page.key("?")
    assert page.ask("document.querySelector('#help').open") and "leaked answer" in text(page, "#help")
    page.key("Escape")
    assert not page.ask("document.querySelector('#help').open")
    page.key("1")
    assert not page.ask("document.querySelector('#panel-curves').hidden") and page.ask(
        "document.querySelector('#panel-traces').hidden"
    )


def test_a_link_leads_to_its_trace(page, report):
    page.open(report, "#trace=7")
    assert chosen(page) == 7 and not page.ask("document.querySelector('#panel-traces').hidden")
    row = page.ask(
        "(r => [r.top, r.bottom])(document.querySelector('#list [aria-selected=true]').getBoundingClientRect())"
    )
    box = page.ask("(r => [r.top, r.bottom])(document.querySelector('#list').getBoundingClientRect())")
    assert box[0] <= row[0] < row[1] <= box[1]


# ------------------------------------------------------------------------------------------------------- for everyone


def luminance(page, name: str) -> float:
    code = page.ask(f"style('--{name}')").lstrip("#")
    light = [int(code[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in light]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_themes_have_contrast(page, scheme):
    page.prefer(scheme)
    page.wait(f"document.documentElement.dataset.theme === '{scheme}'")
    texts = ["ink", "soft", "good", "bad", "warn", "accent", *(f"run{number}" for number in range(8))]
    for back in ("back", "card", "chosen"):
        for front in texts if back != "chosen" else ["ink", "soft", "good", "bad", "warn"]:
            low, high = sorted(luminance(page, name) for name in (back, front))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (front, back)  # WCAG 2, AA


def test_light_and_dark(page, report):
    back = "getComputedStyle(document.documentElement).backgroundColor"
    assert page.ask(back) == "rgb(255, 255, 255)"
    page.prefer("dark")
    page.wait(f"{back} === 'rgb(15, 19, 24)'")
    page.key("t")  # a choice of one's own outlasts what the system prefers
    assert page.ask(back) == "rgb(255, 255, 255)"
    page.open(report)
    assert page.ask(back) == "rgb(255, 255, 255)"
    page.ask("localStorage.clear()")


@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_does_not_scroll_sideways(page, width):
    page.size(width, 800)
    for name in ("curves", "rewards", "health", "settings", "traces"):
        page.ask(f"openPanel('{name}')")
        page.ask("document.querySelectorAll('details').forEach(e => { e.open = true; })")
        page.ask("new Promise(requestAnimationFrame)")
        assert page.ask("document.documentElement.scrollWidth") == width, name
    for trace in range(len(first_run()) - 6, len(records())):
        page.ask(f"inspector.open({trace})")
        assert page.ask("document.documentElement.scrollWidth") == width, trace


def test_all_that_can_be_operated_has_a_name(page):
    controls = {"button", "checkbox", "combobox", "slider", "searchbox", "tab", "listbox", "option", "img", "dialog"}
    for name in ("curves", "rewards", "health", "settings", "traces"):
        page.ask(f"openPanel('{name}')")
        nodes = page.send("Accessibility.getFullAXTree")["nodes"]
        met = [node for node in nodes if not node["ignored"] and node["role"]["value"] in controls]
        assert len(met) >= 7
        assert [node["role"]["value"] for node in met if not node.get("name", {}).get("value", "").strip()] == []


# ---------------------------------------------------------------------------------------------------- what it computes


def test_smoothing(page):
    values = [1.0, None, 3.0, -2.0, 0.5]
    assert page.ask(f"smooth({json.dumps(values)}, 0)") == values
    weights = [0.75 ** np.arange(n)[::-1] for n in range(1, 5)]
    known = [value for value in values if value is not None]
    means = [float(np.average(known[: len(weight)], weights=weight)) for weight in weights]
    smoothed = page.ask(f"smooth({json.dumps(values)}, 0.75)")
    assert smoothed.pop(1) is None
    assert smoothed == pytest.approx(means)


def test_averages_of_seeds(page):
    from scipy import stats

    columns = [
        {"steps": [1, 2, 3], "values": [0.0, 1.0, None]},
        {"steps": [2, 3], "values": [2.0, 5.0]},
        {"steps": [2], "values": [6.0]},
    ]
    told = page.ask(f"average({json.dumps(columns)})")
    low, high = stats.t.interval(0.95, 2, loc=3.0, scale=stats.sem([1.0, 2.0, 6.0]))
    assert (told["steps"], told["values"]) == ([2], [3.0])
    assert (told["low"][0], told["high"][0]) == pytest.approx((low, high), abs=1e-3)
    for freedom in (1, 2, 5, 20, 21, 30, 100):
        assert page.ask(f"studentT({freedom})") == pytest.approx(stats.t.ppf(0.975, freedom), abs=5e-3)


def test_runs_that_differ_in_their_seed_are_averaged(page, tmp_path):
    paths = [
        write_run(tmp_path / f"arm_{seed}", [], metrics(4, random.Random(seed)), config(seed=seed)) for seed in range(2)
    ]
    paths.append(
        write_run(tmp_path / "other", [], metrics(4, random.Random(2)), config(RewardConfig(kind="exec_only")))
    )
    run_report([str(path) for path in paths], str(tmp_path / "seeds.html"), 100)
    page.open(tmp_path / "seeds.html")
    page.ask("page.smoothing = 0; document.querySelector('#together').click()")
    arm, other = page.ask("linesOf(report, 'reward/mean')")
    assert (arm["label"], other["label"]) == ("arm ×2", "other")
    values = [[row["reward/mean"] for row in metrics(4, random.Random(seed))[1:-1]] for seed in range(3)]
    assert arm["values"] == pytest.approx(np.mean(values[:2], axis=0).tolist())
    assert other["values"] == values[2] and other["low"] == [None] * 4
    page.key("5")
    assert "No reward records" in text(page, "#panel-traces")


def test_browsers_that_cannot_decompress(page, report):
    late = page.send("Page.addScriptToEvaluateOnNewDocument", source="delete window.DecompressionStream")
    try:
        page.open(report)
        assert page.ask("'DecompressionStream' in window") is False
        assert page.ask("[...report.traces.reward]") == [told["reward"] for told in records()]
    finally:
        page.send("Page.removeScriptToEvaluateOnNewDocument", **late)


@pytest.mark.parametrize("level", [0, 1, 9])
def test_decompression_of_every_kind_of_block(page, level):
    import base64
    import gzip

    noise = random.Random(0).randbytes(70_000)
    for data in (b"", b"abcabcabcabc", noise, b"7 + 5 = 2 ; " * 9000 + noise[:500]):
        packed = base64.b64encode(gzip.compress(data, level, mtime=0)).decode()
        told = page.ask(f"btoa([...inflateGzip(bytesOfBase64('{packed}'))].map(b => String.fromCharCode(b)).join(''))")
        assert base64.b64decode(told) == data


# ---------------------------------------------------------------------------------------------------------- large runs


def test_ten_thousand_traces_stay_quick(page, tmp_path):
    run_dir = large_run(tmp_path / "large", steps=79, problems=16, traces=8)
    run_report([str(run_dir)], None, 30_000)
    began = time.monotonic()
    page.open(run_dir / "report.html", "#traces")
    assert time.monotonic() - began < LOADS_WITHIN
    assert text(page, "#count") == "10112 of 10112 traces"
    assert page.ask("document.querySelectorAll('#list .row').length") < 60  # only those in view
    began = time.monotonic()
    for _ in range(10):
        page.key("j")
    page.ask("inspector.query = '1 + 1 = 3'; inspector.filter()")
    assert time.monotonic() - began < LOADS_WITHIN
    assert 1000 < len(listed(page)) < 9000


def test_a_sample_says_that_it_is_one(page, tmp_path, capsys):
    run_dir = large_run(tmp_path / "sampled", steps=9, problems=2, traces=2)
    run_report([str(run_dir)], None, 12)
    said = "The page holds 12 of its traces, from 3 of its 9 steps with records, evenly chosen; "
    said += "--most_traces=N sets how many."
    assert said in capsys.readouterr().out
    page.open(run_dir / "report.html")
    assert text(page, ".run .note") == said and page.ask("report.count") == 12
