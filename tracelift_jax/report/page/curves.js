"use strict";

const HEADLINE = [
  "eval/sampled/accuracy",
  "eval/sampled/faithful",
  "eval/sampled/wrong_reason",
  "eval/greedy/accuracy",
  "reward/mean",
  "reward/accuracy",
  "reward/faithful",
  "reward/uplift",
  "reward/grade",
  "policy/entropy",
  "rollout/well_formed",
  "rollout/trace_tokens",
  "held_out/group_accuracy",
  "held_out/pair_accuracy",
  "held_out/mae",
  "held_out/loss/total",
  "score/group_accuracy",
  "loss/total",
  "optimizer/gradient_norm",
];
const MEANING = {
  "eval/sampled/accuracy": "held-out, at temperature 1",
  "eval/greedy/accuracy": "held-out, greedy",
  "eval/sampled/faithful": "held-out traces that the oracle calls faithful",
  "eval/sampled/wrong_reason": "held-out: right by unfaithful reasoning",
  "reward/mean": "what is learnt from",
  "reward/accuracy": "right primary answers",
  "reward/faithful": "traces that the oracle calls faithful",
  "reward/uplift": "with the trace less without it",
  "reward/grade": "the reward model's score",
  "policy/entropy": "of the planner, a token",
  "held_out/group_accuracy": "positive above all its flawed siblings",
  "held_out/pair_accuracy": "positive above a flawed sibling",
  "held_out/mae": "mean absolute error of the score",
  "rollout/well_formed": "share of traces",
  "rollout/trace_tokens": "mean length of traces",
};
const isEvaluation = name => name.startsWith("eval/") || name.startsWith("held_out/");
const isEnd = (name, metrics) => /_(low|high)$/.test(name) && name.replace(/_(low|high)$/, "") in metrics;

/** All metrics of all runs, without the ends of intervals. */
function metricNames(data) {
  const names = new Set();
  for (const {metrics} of data.runs) {
    for (const name of Object.keys(metrics)) if (!isEnd(name, metrics)) names.add(name);
  }
  return [...names].sort();
}

/** Runs that differ in nothing but their seed: [[run number, ...], ...]. */
function families(data) {
  const known = new Map();
  data.runs.forEach((run, number) => {
    const key = JSON.stringify(
      Object.entries(run.config)
        .filter(([path]) => path !== "seed")
        .sort(),
    );
    known.set(key, [...(known.get(key) || []), number]);
  });
  return [...known.values()];
}

function familyName(data, members) {
  const names = members.map(number => data.runs[number].name);
  let shared = names[0];
  while (!names.every(name => name.startsWith(shared))) shared = shared.slice(0, -1);
  return names.length === 1 ? names[0] : `${shared.replace(/[-_.\s]*$/, "") || names[0]} ×${names.length}`;
}

/** What a chart of one metric shows, by the page's choices; see `lineOptions`. */
function linesOf(data, name) {
  const shown = number => !page.hidden.has(number) && name in data.runs[number].metrics;
  const sparse = isEvaluation(name);
  if (page.together) {
    return families(data)
      .map(members => members.filter(shown))
      .filter(members => members.length)
      .map(members => {
        const columns = members.map(number => {
          const {steps, values} = data.runs[number].metrics[name];
          return {steps, values: sparse ? values : smooth(values, page.smoothing)};
        });
        return {label: familyName(data, members), color: color(members[0]), sparse, plain: true, ...average(columns)};
      });
  }
  return data.runs
    .map((run, number) => number)
    .filter(shown)
    .map(number => {
      const {metrics} = data.runs[number];
      const ends = `${name}_low` in metrics && `${name}_high` in metrics;
      return {
        label: data.runs[number].name,
        color: color(number),
        sparse,
        ...metrics[name],
        ...(ends ? {low: metrics[`${name}_low`].values, high: metrics[`${name}_high`].values} : {}),
      };
    });
}

const metricChart = (data, name) => lineChart(name, MEANING[name], () => linesOf(data, name));

/** Which runs are shown, and how; one bar above all charts. */
function chartBar(data) {
  const chips = data.runs.map((run, number) =>
    el(
      "button",
      {
        type: "button",
        class: "chip",
        "aria-pressed": "true",
        style: {"--tint": color(number)},
        "data-run": run.name,
        onclick: event => {
          const off = page.hidden.has(number);
          if (off) page.hidden.delete(number);
          else page.hidden.add(number);
          event.currentTarget.setAttribute("aria-pressed", String(off));
          page.changed();
        },
      },
      run.name,
    ),
  );
  const slider = el("input", {
    type: "range",
    id: "smoothing",
    min: "0",
    max: "0.98",
    step: "0.02",
    value: String(page.smoothing),
    oninput: event => {
      page.smoothing = Number(event.target.value);
      told.textContent = page.smoothing.toFixed(2);
      page.changed();
    },
  });
  const told = el("output", {for: "smoothing"}, page.smoothing.toFixed(2));
  const together =
    families(data).some(members => members.length > 1) &&
    el(
      "label",
      {class: "of-curves"},
      el("input", {
        type: "checkbox",
        id: "together",
        onchange: event => {
          page.together = event.target.checked;
          page.changed();
        },
      }),
      "average seeds, with 95 % intervals over runs",
    );
  return el(
    "div",
    {class: "bar", id: "chart-bar", role: "group", "aria-label": "What charts show"},
    data.runs.length > 1 ? chips : null,
    el("label", {for: "smoothing"}, "smoothing"),
    slider,
    told,
    together,
  );
}

function runCard(run, number) {
  const told = [
    `tracelift ${run.command}`,
    run.steps === null ? `step ${run.last_step}` : `step ${run.last_step} of ${run.steps}`,
  ];
  if (run.reward) told.push(`reward ${run.reward.kind}`);
  return el(
    "div",
    {class: "card run", style: {"--tint": color(number)}},
    el("b", {}, run.name),
    el("p", {}, told.join(" · ")),
    run.weights.map(([role, mark]) => el("p", {class: "soft"}, `${role} `, el("code", {}, mark))),
    run.notes.map(note => el("p", {class: "warn note"}, note)),
  );
}

/** First and last evaluation of each run, with half the width of their intervals. */
function finalTable(data) {
  const names = metricNames(data).filter(name => isEvaluation(name) && !/\/(problems|left_out|groups)$/.test(name));
  const cell = (metrics, name, place) => {
    if (!(name in metrics)) return "–";
    const at = place < 0 ? metrics[name].values.length - 1 : place,
      value = metrics[name].values[at];
    const [low, high] = ["low", "high"].map(end => metrics[`${name}_${end}`] && metrics[`${name}_${end}`].values[at]);
    return el(
      "span",
      {},
      num(value),
      isNumber(low) && isNumber(high)
        ? el("span", {class: "soft", title: `${low} to ${high}`}, ` ±${short((high - low) / 2)}`)
        : null,
    );
  };
  const evaluated = data.runs.filter(run => Object.keys(run.metrics).some(isEvaluation));
  if (!evaluated.length) return null;
  const stepsOf = run => run.metrics[Object.keys(run.metrics).find(isEvaluation)].steps;
  const head = [
    "",
    ...evaluated.flatMap(run => {
      const steps = stepsOf(run);
      return steps.length > 1
        ? [`${run.name}, step ${steps[0]}`, `step ${steps[steps.length - 1]}`]
        : [`${run.name}, step ${steps[0]}`];
    }),
  ];
  const rows = names.map(name => [
    el("code", {}, name),
    ...evaluated.flatMap(run => (stepsOf(run).length > 1 ? [0, -1] : [0]).map(place => cell(run.metrics, name, place))),
  ]);
  return el(
    "section",
    {id: "final"},
    el("h2", {}, "Held-out, first and last"),
    el("p", {class: "soft"}, "± half a 95 % interval, where the run has one."),
    table(head, rows, {label: "Held-out numbers"}),
  );
}

function curvesPanel(data) {
  const names = new Set(metricNames(data));
  const grid = el(
    "div",
    {class: "grid"},
    HEADLINE.filter(name => names.has(name)).map(name => metricChart(data, name)),
  );
  return [
    el("div", {class: "grid"}, data.runs.map(runCard)),
    el("h2", {}, "Curves"),
    el(
      "p",
      {class: "soft"},
      "Faint: as recorded; strong: smoothed. Points with bars: evaluations on held-out problems with " +
        "95 % intervals. Drag over a chart to zoom, double-click to zoom out.",
    ),
    names.size ? grid : el("p", {}, "No metrics yet."),
    finalTable(data),
  ];
}

/** Every metric there is, by group. */
function healthPanel(data) {
  const groups = new Map();
  for (const name of metricNames(data)) {
    const group = name.split("/")[0];
    groups.set(group, [...(groups.get(group) || []), name]);
  }
  const sections = [...groups].map(([group, names]) =>
    el(
      "details",
      {open: true, "data-group": group},
      el("summary", {}, el("b", {}, group), el("span", {class: "soft"}, ` ${names.length}`)),
      el(
        "div",
        {class: "grid"},
        names.map(name => metricChart(data, name)),
      ),
    ),
  );
  const pick = el("input", {
    type: "search",
    placeholder: "part of a name",
    "aria-label": "Metrics whose names hold",
    oninput: event => {
      const wanted = event.target.value.trim().toLowerCase();
      for (const section of sections) {
        let any = false;
        for (const card of section.querySelectorAll("figure")) {
          card.hidden = !card.dataset.metric.toLowerCase().includes(wanted);
          any = any || !card.hidden;
        }
        section.hidden = !any;
      }
    },
  });
  return [el("div", {class: "bar"}, el("label", {}, "metrics", pick)), sections];
}
