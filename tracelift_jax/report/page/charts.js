"use strict";

// uPlot draws on canvas and knows no CSS variables, so a change of colours draws anew.

const CHART_HEIGHT = 190;
const charts = {
  all: new Set(),
  redraw() {
    this.all.forEach(chart => chart.changed());
  },
};

const resolve = text => (text.startsWith("var(") ? style(text.slice(4, -1)) : text);

function faint(hex, share) {
  return (
    hex +
    Math.round(255 * share)
      .toString(16)
      .padStart(2, "0")
  );
}

const axis = extra => ({
  stroke: style("--soft"),
  grid: {stroke: style("--line"), width: 1},
  ticks: {stroke: style("--line"), width: 1},
  font: "11px system-ui, sans-serif",
  ...extra,
});

/**
 * A chart that draws itself when it comes into view, and again where something has changed.
 *
 * make: () => ({data, options}), asked each time it is drawn; options is uPlot's, without width and height.
 * label: what it is, for those who cannot see it.
 */
function lazyChart(label, make, height = CHART_HEIGHT) {
  const host = el("div", {class: "chart", role: "img", "aria-label": label, style: {"min-height": `${height}px`}});
  const chart = {
    host,
    plot: null,
    stale: true,
    inView: false,
    draw() {
      this.stale = false;
      if (this.plot) this.plot.destroy();
      const {data, options} = make();
      const width = Math.max(host.clientWidth, 120);
      this.plot = new uPlot({width, height, legend: {show: false}, ...options}, data, host);
    },
    changed() {
      this.stale = true;
      if (this.inView) this.draw();
    },
  };
  charts.all.add(chart);
  const sight = new IntersectionObserver(
    entries => {
      chart.inView = entries[entries.length - 1].isIntersecting;
      if (chart.inView && chart.stale) chart.draw();
    },
    {rootMargin: "300px"},
  );
  sight.observe(host);
  const fit = new ResizeObserver(() => {
    if (chart.plot && host.clientWidth && chart.plot.width !== host.clientWidth)
      chart.plot.setSize({width: host.clientWidth, height});
  });
  fit.observe(host);
  return chart;
}

/** Draws the intervals of series: a bar with ends for points, as `whiskers` lists them. */
function drawWhiskers(plot, whiskers) {
  const {ctx} = plot,
    ratio = devicePixelRatio;
  ctx.save();
  ctx.lineWidth = 1.5 * ratio;
  for (const {series, low, high} of whiskers) {
    ctx.strokeStyle = resolve(series);
    plot.data[0].forEach((step, index) => {
      const bottom = plot.data[low][index],
        top = plot.data[high][index];
      if (!isNumber(bottom) || !isNumber(top)) return;
      const x = plot.valToPos(step, "x", true),
        ends = [bottom, top].map(value => plot.valToPos(value, "y", true));
      ctx.beginPath();
      ctx.moveTo(x, ends[0]);
      ctx.lineTo(x, ends[1]);
      ends.forEach(y => {
        ctx.moveTo(x - 4 * ratio, y);
        ctx.lineTo(x + 4 * ratio, y);
      });
      ctx.stroke();
    });
  }
  ctx.restore();
}

/**
 * Lines over steps.
 *
 * lines: [{label, color, steps, values, low?, high?, sparse?, dash?, plain?}]; sparse ones are points with whiskers, plain
 * ones lines as they are, and all others a line smoothed by the page's slider over a faint one as it is.
 * readout: where the values under the cursor are told.
 */
function lineOptions(lines, readout) {
  const columns = [],
    series = [{}],
    whiskers = [],
    bands = [],
    told = [];
  const add = (line, values, options) => {
    columns.push({steps: line.steps, values});
    series.push(options);
  };
  const silent = {stroke: "transparent", points: {show: false}};
  for (const line of lines) {
    const stroke = resolve(line.color);
    if (line.low) {
      add(line, line.low, silent);
      add(line, line.high, silent);
      const [low, high] = [columns.length - 1, columns.length];
      if (line.sparse) whiskers.push({series: line.color, low, high});
      else bands.push({series: [high, low], fill: faint(stroke, 0.18)});
    }
    const smoothed = !line.sparse && !line.plain && page.smoothing > 0;
    if (smoothed)
      add(line, line.values, {stroke: faint(stroke, 0.25), width: 1, points: {show: false}, spanGaps: true});
    add(line, smoothed ? smooth(line.values, page.smoothing) : line.values, {
      stroke,
      width: line.sparse ? 1.2 : 2,
      spanGaps: true,
      dash: line.dash,
      points: {show: line.sparse || line.steps.length < 3, size: 7, fill: stroke},
    });
    told.push({...line, place: columns.length, raw: smoothed ? columns.length - 1 : columns.length});
  }
  const say = plot => {
    const index = plot.cursor.idx;
    if (!isNumber(index)) {
      readout.replaceChildren();
      return;
    }
    const parts = told
      .filter(line => isNumber(plot.data[line.raw][index]))
      .map(line => el("span", {style: {color: line.color}}, `${line.label} ${short(plot.data[line.raw][index])}`));
    readout.replaceChildren(`step ${plot.data[0][index]} `, ...parts.flatMap(part => [part, " "]));
  };
  return {
    data: columns.length ? align(columns) : [[]],
    options: {
      scales: {x: {time: false}},
      series,
      bands,
      axes: [
        axis({size: 28}),
        axis({size: 52, values: (_, ticks) => ticks.map(tick => short(tick).replace(/\.?0+$/, "") || "0")}),
      ],
      cursor: {sync: {key: "steps"}, points: {size: 6}},
      hooks: {draw: [plot => drawWhiskers(plot, whiskers)], setCursor: [say]},
    },
  };
}

function lineChart(title, what, lines) {
  const readout = el("p", {class: "readout", "aria-hidden": "true"});
  const latest = lines()
    .map(line => `${line.label} ${short(line.values[line.values.length - 1])}`)
    .join(", ");
  const chart = lazyChart(`${title}; last: ${latest}`, () => lineOptions(lines(), readout));
  return el(
    "figure",
    {class: "card", "data-metric": title},
    el("figcaption", {}, el("b", {}, title), what ? el("span", {class: "soft"}, ` ${what}`) : null),
    chart.host,
    readout,
  );
}
