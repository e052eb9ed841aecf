"use strict";

const TAG_CLASS = {1: "bad", 2: "warn", 4: "warn", 8: "bad", 16: "bad", 32: "soft"};

function tags(data, trace, long = false) {
  const bits = data.traces.flags[trace];
  return FLAGS.filter(flag => bits & flag.bit).map(flag =>
    el("span", {class: `tag ${TAG_CLASS[flag.bit]}`, title: flag.what}, long ? flag.long : flag.name),
  );
}

function verdictMark(letter) {
  const [sign, tint] = {o: ["✓", "good"], w: ["✗", "bad"], f: ["⚠", "warn"]}[letter];
  return el("span", {class: tint}, `${sign} ${VERDICTS[letter]}`);
}

/** The reasoning, its first wrong step marked where the oracle knows it. */
function reasoningText(data, trace, query) {
  const text = data.text(data.traces.reasoning[trace]),
    mark = data.traces.mark[trace];
  if (!text.trim()) return el("p", {class: "text soft", id: "reasoning"}, "empty");
  if (!mark) return el("p", {class: "text mono", id: "reasoning"}, found(text, query));
  const [begin, end] = mark;
  return el(
    "p",
    {class: "text mono", id: "reasoning"},
    found(text.slice(0, begin), query),
    el(
      "mark",
      {class: "wrong", "aria-label": "the first wrong step"},
      begin === end ? " (a step is missing here) " : found(text.slice(begin, end), query),
    ),
    found(text.slice(end), query),
  );
}

function oracleLine(data, trace) {
  const {faithful, mark} = data.traces;
  if (faithful[trace] < 0) return null;
  if (faithful[trace])
    return el("p", {id: "oracle", class: "good"}, "✓ faithful: every step is right and follows from the problem");
  if (!mark[trace]) return el("p", {id: "oracle", class: "bad"}, "✗ not faithful");
  const [begin, end, step, place] = mark[trace],
    expected = data.text(place);
  const told =
    begin === end
      ? `step ${step} is missing; a faithful trace goes on with `
      : expected
        ? `step ${step} is the first wrong one; a faithful trace has `
        : `step ${step} is one too many`;
  return el("p", {id: "oracle", class: "bad"}, `✗ not faithful: ${told}`, expected ? el("code", {}, expected) : null);
}

function answerList(data, trace, query) {
  const {answers, verdicts, outcomes, tests} = data.traces,
    program = data.groups.program[data.groupOf[trace]];
  return el(
    "ol",
    {class: "answers", id: "with"},
    answers[trace].map((place, index) => {
      const outcome = outcomes[trace].length ? data.text(outcomes[trace][index]) : null,
        passed = tests[trace][index];
      const text = data.text(place);
      const said =
        text === null
          ? el("i", {class: "soft"}, "no answer came")
          : el(program ? "pre" : "code", {}, text.trim() ? found(text, query) : "(empty)");
      return el(
        "li",
        {},
        said,
        " ",
        verdictMark(verdicts[trace][index]),
        outcome ? ` ${outcome.replaceAll("_", " ")}` : null,
        passed ? `, ${passed[0]} of ${passed[1]} tests` : null,
        index ? null : el("span", {class: "soft"}, " primary"),
      );
    }),
  );
}

function withoutList(data, run, trace, query) {
  const said = data.traces.without[trace],
    program = data.groups.program[data.groupOf[trace]];
  if (said.length) {
    return el(
      "ol",
      {class: "answers", id: "without"},
      said.map(place =>
        el(
          "li",
          {},
          place < 0
            ? el("i", {class: "soft"}, "no answer came")
            : el(program ? "pre" : "code", {}, found(data.text(place), query)),
        ),
      ),
    );
  }
  const why =
    run.measured.uplift === "sampled"
      ? "No answers were drawn in this step: the counts are those of an earlier one."
      : run.measured.uplift === "likelihood"
        ? "None are drawn: the uplift compares probabilities of the reference answer."
        : "None are drawn.";
  return el("p", {class: "soft", id: "without"}, why);
}

function rubricTable(data, trace) {
  const names = data.rubrics[data.groups.rubric[data.groupOf[trace]]];
  const bar = (value, most) =>
    el(
      "span",
      {class: "meter", "aria-hidden": "true"},
      el("i", {style: {width: `${Math.max(0, Math.min(100, (100 * value) / most))}%`}}),
    );
  const rows = names.map((name, label) => {
    const value = data.traces[`rubric${label}`][trace];
    return [
      name.replaceAll("_", " "),
      el(
        "span",
        {},
        bar(value, 4),
        num(value, x => x.toFixed(2)),
      ),
    ];
  });
  for (const name of ["total", "score"]) {
    rows.push([el("b", {}, name), el("span", {}, bar(data.traces[name][trace], 1), num(data.traces[name][trace]))]);
  }
  return table(["rubric", "of 4"], rows, {label: "Rubric scores"});
}

/** The G traces of a problem, the best rewarded first. */
function groupTable(data, run, trace) {
  const {traces} = data,
    group = data.groupOf[trace];
  const head = [
    "rank",
    "reward",
    "advantage",
    "answer",
    ...(run.measured.uplift === "none" ? [] : ["uplift"]),
    ...(run.measured.grade ? ["grade"] : []),
    ...(run.oracle ? ["faithful"] : []),
    "",
  ];
  const rows = data.ranked[group].map(member =>
    el(
      "tr",
      {
        class: `link${member === trace ? " chosen" : ""}`,
        "data-trace": String(member),
        "aria-current": member === trace ? "true" : null,
        onclick: () => inspector.select(member),
      },
      el(
        "th",
        {scope: "row"},
        el(
          "button",
          {type: "button", "aria-label": `Trace of rank ${data.rankOf[member]}`},
          String(data.rankOf[member]),
        ),
      ),
      [
        num(traces.reward[member]),
        num(traces.advantage[member], signed),
        verdictMark(traces.verdicts[member][0]),
        ...(run.measured.uplift === "none" ? [] : [num(traces.uplift[member], signed)]),
        ...(run.measured.grade ? [num(traces.score[member])] : []),
        ...(run.oracle ? [traces.faithful[member] < 0 ? "–" : traces.faithful[member] ? "yes" : "no"] : []),
        tags(data, member),
      ].map(cell => el("td", {}, cell)),
    ),
  );
  return el(
    "div",
    {class: "scroll", tabindex: "0", role: "region", "aria-label": "Traces of this problem"},
    el(
      "table",
      {id: "group"},
      el(
        "thead",
        {},
        el(
          "tr",
          {},
          head.map(cell => el("th", {scope: "col"}, cell)),
        ),
      ),
      el("tbody", {}, rows),
    ),
  );
}

function traceDetail(data, trace, query) {
  const {groups, traces} = data,
    group = data.groupOf[trace],
    run = data.runs[groups.run[group]];
  const [tokens, without] = [
    traces.tokens[trace],
    groups.program[group] ? "Programs without it" : "Answers without it",
  ];
  const go = (label, sign, action) =>
    el("button", {type: "button", "aria-label": label, title: label, onclick: action}, sign);
  return [
    el(
      "div",
      {class: "where steer"},
      go("previous problem (←)", "«", () => inspector.jump(-1, GROUP)),
      go("previous trace (k)", "‹", () => inspector.move(-1)),
      go("next trace (j)", "›", () => inspector.move(1)),
      go("next problem (→)", "»", () => inspector.jump(1, GROUP)),
    ),
    el(
      "div",
      {class: "where"},
      el("span", {class: "chip", style: {"--tint": color(groups.run[group])}}, el("b", {}, run.name)),
      el(
        "span",
        {},
        `step ${groups.step[group]} · rank ${data.rankOf[trace]} of ${groups.size[group]}` +
          ` · trace ${traces.trace[trace]}`,
      ),
      tags(data, trace, true),
    ),
    el("p", {class: "soft mono"}, data.text(groups.problem_id[group])),
    el("h3", {}, "Problem"),
    el("p", {class: "text", id: "problem"}, found(data.text(groups.problem[group]), query)),
    el(
      "p",
      {},
      "reference: ",
      data.text(groups.reference[group])
        ? el(groups.program[group] ? "pre" : "code", {id: "reference"}, data.text(groups.reference[group]))
        : "decided by its tests",
    ),
    el("h3", {}, "Reasoning", tokens ? el("span", {class: "soft"}, ` ${tokens} tokens`) : null),
    reasoningText(data, trace, query),
    oracleLine(data, trace),
    el(
      "p",
      {id: "reward"},
      el("b", {}, "reward "),
      workedReward(data, run, trace),
      " · ",
      el("b", {}, "advantage "),
      num(traces.advantage[trace], signed),
    ),
    el("p", {id: "uplift"}, el("b", {}, "uplift "), workedUplift(data, run, trace)),
    el(
      "div",
      {class: "two"},
      el(
        "section",
        {},
        el("h3", {}, groups.program[group] ? "Programs with it" : "Answers with it"),
        answerList(data, trace, query),
      ),
      el("section", {}, el("h3", {}, without), withoutList(data, run, trace, query)),
      run.measured.grade ? el("section", {id: "rubric"}, el("h3", {}, "Grade"), rubricTable(data, trace)) : null,
    ),
    el("h3", {}, "The traces of this problem, by reward"),
    groupTable(data, run, trace),
  ];
}
