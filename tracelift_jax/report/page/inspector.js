"use strict";

const ROW_HEIGHT = 44;
const GROUP = group => group;
const ORDERS = {
  groups: ["by problem", null],
  worst: ["lowest reward first", (t, a, b) => t.reward[a] - t.reward[b]],
  best: ["highest reward first", (t, a, b) => t.reward[b] - t.reward[a]],
  grade: ["highest grade first", (t, a, b) => t.score[b] - t.score[a]],
  uplift: ["lowest uplift first", (t, a, b) => t.uplift[a] - t.uplift[b]],
};

/** The trace inspector: a list of traces, or of problems with their traces, and one of them in full. */
const inspector = {
  data: null,
  show: null,
  rows: [],
  place: new Map(),
  chosen: -1,
  query: "",
  wanted: {run: "", step: "", answer: "", faithful: "", flags: 0, order: "groups"},

  /** Builds the panel. */
  build(data) {
    this.data = data;
    if (!data.count) return [el("p", {}, "No reward records: runs of train write them to traces/.")];
    this.all = el("div", {class: "all"});
    this.list = el(
      "div",
      {
        class: "list",
        id: "list",
        role: "listbox",
        tabindex: "0",
        "aria-label": "Traces",
        onscroll: () => this.draw(),
        onclick: event => {
          const row = event.target.closest("[data-trace]");
          if (row) this.select(Number(row.dataset.trace));
        },
      },
      this.all,
    );
    this.detail = el("article", {
      class: "detail",
      id: "detail",
      "aria-label": "The chosen trace",
    });
    this.count = el("span", {class: "soft", id: "count", role: "status"});
    const panel = [this.filters(), el("div", {class: "inspector"}, this.list, this.detail)];
    new ResizeObserver(() => this.draw()).observe(this.list);
    this.filter();
    return panel;
  },

  filters() {
    const {data} = this,
      {groups} = data;
    const choose = (name, label, options) =>
      el(
        "label",
        {},
        label,
        el(
          "select",
          {
            id: `filter-${name}`,
            onchange: event => {
              this.wanted[name] = event.target.value;
              if (name === "run") this.fillSteps();
              this.filter();
            },
          },
          options.map(([value, text]) => el("option", {value}, text)),
        ),
      );
    const runs = [...new Set(groups.run)];
    this.search = el("input", {
      type: "search",
      id: "search",
      placeholder: "search  ( / )",
      "aria-label": "Search problems, reasoning and answers",
      oninput: () => {
        clearTimeout(this.later);
        this.later = setTimeout(() => {
          this.query = this.search.value.trim().toLowerCase();
          this.filter();
        }, 80);
      },
    });
    const step = choose("step", "step", [["", "all"]]);
    this.stepSelect = step.querySelector("select");
    this.fillSteps();
    this.flagButtons = FLAGS.map(flag =>
      el(
        "button",
        {
          type: "button",
          class: "chip filter",
          "aria-pressed": "false",
          "data-flag": flag.name,
          title: flag.what,
          onclick: event => {
            this.wanted.flags ^= flag.bit;
            event.currentTarget.setAttribute("aria-pressed", String(Boolean(this.wanted.flags & flag.bit)));
            this.filter();
          },
        },
        flag.long,
        " ",
        el("span", {class: "soft"}),
      ),
    );
    const oracle = data.runs.some(run => run.oracle);
    return el(
      "div",
      {class: "filters"},
      el(
        "div",
        {class: "bar"},
        runs.length > 1
          ? choose("run", "run", [["", "all"], ...runs.map(run => [String(run), data.runs[run].name])])
          : null,
        step,
        choose("answer", "answer", [
          ["", "any"],
          ["o", "right"],
          ["w", "wrong"],
          ["f", "failed"],
        ]),
        oracle
          ? choose("faithful", "faithful", [
              ["", "any"],
              ["1", "yes"],
              ["0", "no"],
            ])
          : null,
        choose(
          "order",
          "order",
          Object.entries(ORDERS).map(([value, [text]]) => [value, text]),
        ),
        this.search,
      ),
      el("div", {class: "bar", role: "group", "aria-label": "Show only traces that are"}, this.flagButtons, this.count),
    );
  },

  fillSteps() {
    const {groups} = this.data,
      {run} = this.wanted;
    const steps = [...new Set(groups.step.filter((_, group) => run === "" || String(groups.run[group]) === run))].sort(
      (a, b) => a - b,
    );
    const kept = steps.includes(Number(this.wanted.step)) ? this.wanted.step : "";
    this.wanted.step = kept;
    this.stepSelect.replaceChildren(
      ...[["", "all"], ...steps.map(step => [String(step), String(step)])].map(([value, text]) =>
        el("option", {value, selected: value === kept}, text),
      ),
    );
  },

  /** Whether each text holds what is searched for; null if nothing is. */
  hits() {
    return this.query ? this.data.strings.map(text => text.toLowerCase().includes(this.query)) : null;
  },

  filter() {
    const {data, wanted} = this,
      {groups, traces} = data,
      hits = this.hits(),
      counts = new Map();
    const speaks = (trace, group) =>
      hits[groups.problem[group]] ||
      hits[groups.problem_id[group]] ||
      hits[traces.reasoning[trace]] ||
      traces.answers[trace].some(place => hits[place]) ||
      traces.without[trace].some(place => hits[place]);
    const passes = (trace, group) =>
      (wanted.run === "" || groups.run[group] === Number(wanted.run)) &&
      (wanted.step === "" || groups.step[group] === Number(wanted.step)) &&
      (wanted.answer === "" || traces.verdicts[trace][0] === wanted.answer) &&
      (wanted.faithful === "" || traces.faithful[trace] === Number(wanted.faithful)) &&
      (!hits || speaks(trace, group));
    const found = [];
    data.ranked.forEach((members, group) => {
      for (const trace of members) {
        if (!passes(trace, group)) continue;
        for (const {bit} of FLAGS) if (traces.flags[trace] & bit) counts.set(bit, (counts.get(bit) || 0) + 1);
        if ((traces.flags[trace] & wanted.flags) === wanted.flags) found.push(trace);
      }
    });
    FLAGS.forEach(({bit}, index) => {
      this.flagButtons[index].lastChild.textContent = String(counts.get(bit) || 0);
    });
    this.arrange(found);
    this.count.textContent = `${found.length} of ${data.count} traces`;
    this.list.scrollTop = 0;
    if (!this.place.has(this.chosen)) this.choose(found.length ? this.rows.find(row => row.trace >= 0).trace : -1);
    else this.choose(this.chosen);
    this.draw();
  },

  arrange(found) {
    const order = ORDERS[this.wanted.order][1],
      {groupOf, traces} = this.data;
    if (order)
      this.rows = [...found]
        .sort((a, b) => order(traces, a, b) || a - b)
        .map((trace, place) => ({trace, group: groupOf[trace], place}));
    else {
      this.rows = [];
      let before = -1;
      found.forEach((trace, place) => {
        if (groupOf[trace] !== before) this.rows.push({trace: -1, group: (before = groupOf[trace])});
        this.rows.push({trace, group: before, place});
      });
    }
    this.place = new Map(this.rows.map((row, index) => [row.trace, index]).filter(([trace]) => trace >= 0));
    this.all.style.height = `${this.rows.length * ROW_HEIGHT}px`;
  },

  /** Draws the rows in view, and few beyond. */
  draw() {
    if (!this.list.clientHeight) return;
    const first = Math.max(0, Math.floor(this.list.scrollTop / ROW_HEIGHT) - 5);
    const last = Math.min(this.rows.length, first + Math.ceil(this.list.clientHeight / ROW_HEIGHT) + 10);
    this.all.replaceChildren(...this.rows.slice(first, last).map((row, index) => this.row(row, first + index)));
    if (this.place.has(this.chosen)) this.list.setAttribute("aria-activedescendant", `row-${this.chosen}`);
    else this.list.removeAttribute("aria-activedescendant");
  },

  row({trace, group, place}, index) {
    const {data} = this,
      {groups, traces} = data,
      top = {top: `${index * ROW_HEIGHT}px`};
    if (trace < 0) {
      const several = data.runs.length > 1 ? `${data.runs[groups.run[group]].name} · ` : "";
      return el(
        "div",
        {class: "row group", role: "presentation", style: {...top, "--tint": color(groups.run[group])}},
        el("div", {}, `${several}step ${groups.step[group]} · ${data.text(groups.problem_id[group])}`),
        el("div", {class: "soft"}, data.text(groups.problem[group])),
      );
    }
    return el(
      "div",
      {
        class: "row",
        role: "option",
        id: `row-${trace}`,
        "data-trace": String(trace),
        "aria-selected": String(trace === this.chosen),
        "aria-posinset": String(place + 1),
        "aria-setsize": String(this.place.size),
        style: top,
      },
      el("div", {}, verdictMark(traces.verdicts[trace][0]), ` ${traces.reward[trace].toFixed(3)} `, tags(data, trace)),
      el("div", {class: "soft mono"}, data.text(traces.reasoning[trace]).trim() || "(empty)"),
    );
  },

  choose(trace) {
    this.chosen = trace;
    this.detail.replaceChildren(
      ...(trace < 0
        ? [el("p", {class: "soft"}, "No trace passes the filters.")]
        : traceDetail(this.data, trace, this.query).filter(Boolean)),
    );
    if (trace >= 0) address(`trace=${trace}`);
  },

  /** Chooses a trace and brings its row into view. */
  select(trace) {
    this.choose(trace);
    const index = this.place.get(trace);
    if (index !== undefined) {
      const top = index * ROW_HEIGHT,
        {scrollTop, clientHeight} = this.list;
      if (top < scrollTop + ROW_HEIGHT) this.list.scrollTop = top - ROW_HEIGHT;
      else if (top + 2 * ROW_HEIGHT > scrollTop + clientHeight)
        this.list.scrollTop = top + 2 * ROW_HEIGHT - clientHeight;
    }
    this.draw();
  },

  /** Shows the panel with a trace in it, whatever the filters are. */
  open(trace) {
    this.show();
    if (!this.place.has(trace)) this.clear();
    this.select(trace);
  },

  clear() {
    Object.assign(this.wanted, {run: "", step: "", answer: "", faithful: "", flags: 0});
    document.querySelectorAll("[id^=filter-]:not(#filter-order)").forEach(select => {
      select.value = "";
    });
    this.flagButtons.forEach(button => button.setAttribute("aria-pressed", "false"));
    this.search.value = this.query = "";
    this.fillSteps();
    this.filter();
  },

  /** Goes so many traces on in the list. */
  move(by) {
    const traces = this.rows.filter(row => row.trace >= 0);
    const at = traces.findIndex(row => row.trace === this.chosen);
    const next = traces[Math.max(0, Math.min(traces.length - 1, at + by))];
    if (next) this.select(next.trace);
  },

  /** Goes to the next trace in the list, in a direction, whose group says something else of `what`. */
  jump(by, what) {
    const traces = this.rows.filter(row => row.trace >= 0),
      at = traces.findIndex(row => row.trace === this.chosen);
    if (at < 0) return;
    let to = at;
    while (traces[to] && what(traces[to].group) === what(traces[at].group)) to += by;
    if (!traces[to]) return;
    const value = what(traces[to].group);
    while (by < 0 && traces[to - 1] && what(traces[to - 1].group) === value) to--; // its best, not its last
    this.select(traces[to].trace);
  },
};
