"use strict";

const VERDICT_TINTS = {o: "--good", w: "--bad", f: "--warn"};
const LARGEST_SCATTER = 6000;

function partLines(run) {
  const {step, outcome, quality, rest, reward} = run.parts;
  const lines = [
    {label: "reward", color: "var(--ink)", steps: step, values: reward},
    {label: "outcome", color: "var(--run2)", steps: step, values: outcome},
    {label: "quality", color: "var(--run3)", steps: step, values: quality},
  ];
  if (rest.some(value => Math.abs(value || 0) > 1e-5)) {
    lines.push({label: "clipped", color: "var(--run4)", steps: step, values: rest, dash: [4, 3]});
  }
  return lines;
}

function legend(lines) {
  return el("span", {}, lines.map(line => [el("span", {style: {color: line.color}}, `● ${line.label}`), " "]).flat());
}

/** The figure, which is there while its run is shown. */
function ofRun(figure, number) {
  const follow = () => {
    figure.hidden = page.hidden.has(number);
  };
  page.listeners.push(follow);
  follow();
  return figure;
}

/** Traces of the run whose x and y are known, thinned evenly where there are very many. */
function scatterPoints(data, number, field, which) {
  const {groups, traces} = data;
  const steps = [...new Set(groups.step.filter((_, group) => groups.run[group] === number))];
  const cut = Math.max(1, Math.ceil(steps.length / 5));
  const wanted = new Set(which === "first" ? steps.slice(0, cut) : which === "last" ? steps.slice(-cut) : steps);
  const known = trace => traces.flags[trace] < 32 && isNumber(traces[field][trace]) && isNumber(traces.reward[trace]);
  let found = [];
  for (let trace = 0; trace < data.count; trace++) {
    const group = data.groupOf[trace];
    if (groups.run[group] === number && wanted.has(groups.step[group]) && known(trace)) found.push(trace);
  }
  const every = Math.ceil(found.length / LARGEST_SCATTER);
  found = found.filter((_, index) => index % every === 0);
  return found.sort((a, b) => traces[field][a] - traces[field][b]);
}

function scatterChart(data, number, field, label, which) {
  const kinds = Object.keys(VERDICT_TINTS);
  let points = [];
  const make = () => {
    points = scatterPoints(data, number, field, which());
    const verdict = trace => data.traces.verdicts[trace][0];
    const reward = kind => points.map(trace => (verdict(trace) === kind ? data.traces.reward[trace] : null));
    return {
      data: [points.map(trace => data.traces[field][trace]), ...kinds.map(reward)],
      options: {
        scales: {
          x: {time: false, range: (plot, low, high) => padded(low, high)},
          y: {range: (plot, low, high) => padded(low, high)},
        },
        series: [
          {},
          ...kinds.map(kind => {
            const tint = style(VERDICT_TINTS[kind]);
            return {
              paths: () => null,
              stroke: tint,
              points: {show: true, size: 5, stroke: "transparent", fill: faint(tint, 0.45)},
            };
          }),
        ],
        axes: [axis({size: 34, label, labelSize: 14, labelFont: "11px system-ui"}), axis({size: 48})],
        cursor: {drag: {x: true, y: true}, points: {show: false}},
        hooks: {
          ready: [
            plot =>
              plot.over.addEventListener("click", event => {
                const nearest = nearestPoint(plot, points, data, field, event);
                if (nearest !== null) inspector.open(nearest);
              }),
          ],
        },
      },
    };
  };
  const chart = lazyChart(`${data.runs[number].name}: reward against ${label}, a point a trace`, make, 260);
  const card = el(
    "figure",
    {class: "card"},
    el("figcaption", {}, el("b", {}, `${data.runs[number].name}: reward against ${label}`)),
    chart.host,
  );
  return {card: ofRun(card, number), chart};
}

function padded(low, high) {
  const room = Math.max((high - low) * 0.04, 0.02);
  return [low - room, high + room];
}

function nearestPoint(plot, points, data, field, event) {
  const box = plot.over.getBoundingClientRect(),
    x = event.clientX - box.left,
    y = event.clientY - box.top;
  let best = null,
    least = 14 ** 2;
  for (const trace of points) {
    const far =
      (plot.valToPos(data.traces[field][trace], "x") - x) ** 2 +
      (plot.valToPos(data.traces.reward[trace], "y") - y) ** 2;
    if (far < least) [best, least] = [trace, far];
  }
  return best;
}

function rewardsPanel(data) {
  const scored = data.runs.map((run, number) => number).filter(number => data.runs[number].traces_shown > 0);
  if (!scored.length) return [el("p", {}, "No reward records: runs of train write them.")];
  const decomposed = scored.filter(number => data.runs[number].parts);
  const decomposition = decomposed.map(number => {
    const run = data.runs[number];
    const figure = lineChart(`${run.name}: reward and its parts`, null, () => partLines(run));
    figure.querySelector("figcaption").append(" ", legend(partLines(run)), el("div", {class: "soft"}, equation(run)));
    return ofRun(figure, number);
  });
  const which = el(
    "select",
    {
      "aria-label": "Steps in the scatter plots",
      onchange: () => plots.forEach(({chart}) => chart.changed()),
    },
    [
      ["all", "all steps"],
      ["first", "the first fifth of the steps"],
      ["last", "the last fifth of the steps"],
    ].map(([value, text]) => el("option", {value}, text)),
  );
  const plots = scored.flatMap(number => {
    const {uplift, grade} = data.runs[number].measured;
    return [
      ...(uplift === "none" ? [] : [scatterChart(data, number, "uplift", "uplift", () => which.value)]),
      ...(grade ? [scatterChart(data, number, "score", "grade", () => which.value)] : []),
    ];
  });
  return [
    el("h2", {}, "What rewards are made of"),
    el("p", {class: "soft"}, "Means over the counted traces of each step that this page holds."),
    el("div", {class: "grid"}, decomposition),
    decomposed.length < scored.length
      ? el(
          "p",
          {class: "warn"},
          "Some rewards are of settings that this version does not know; they are not taken apart.",
        )
      : null,
    el("h2", {}, "Reward against uplift and grade"),
    el(
      "div",
      {class: "bar"},
      which,
      el(
        "span",
        {class: "soft"},
        `A point a counted trace, at most ${LARGEST_SCATTER} of a run, evenly chosen: `,
        el("span", {class: "good"}, "● right"),
        " ",
        el("span", {class: "bad"}, "● wrong"),
        "; click one to read the trace.",
      ),
    ),
    el(
      "div",
      {class: "grid"},
      plots.map(({card}) => card),
    ),
  ];
}
