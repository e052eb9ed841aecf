"use strict";

const KEYS = [
  ["1 … 5", "the parts of the report"],
  ["j  ↓", "next trace"],
  ["k  ↑", "previous trace"],
  ["→  ←", "next, previous problem"],
  ["]  [", "next, previous step"],
  ["/", "search"],
  ["c", "clear filters and search"],
  ["t", "light or dark"],
  ["?", "this help"],
  ["Esc", "leave search or help"],
];
const PANELS = [
  ["curves", "Curves"],
  ["rewards", "Rewards"],
  ["health", "All metrics"],
  ["settings", "Configuration"],
  ["traces", "Traces"],
];
const BUILD = {
  curves: curvesPanel,
  rewards: rewardsPanel,
  health: healthPanel,
  settings: settingsPanel,
  traces: data => inspector.build(data),
};
const built = new Set();
let report = null;

function openPanel(name) {
  for (const [other] of PANELS) {
    const chosen = other === name;
    document.getElementById(`panel-${other}`).hidden = !chosen;
    const tab = document.getElementById(`tab-${other}`);
    tab.setAttribute("aria-selected", String(chosen));
    tab.tabIndex = chosen ? 0 : -1;
  }
  document.getElementById("chart-bar").hidden = name === "traces" || name === "settings";
  document.querySelectorAll("#chart-bar .of-curves").forEach(part => {
    part.hidden = name === "rewards";
  });
  if (!built.has(name)) {
    built.add(name);
    document.getElementById(`panel-${name}`).append(...BUILD[name](report).flat().filter(Boolean));
  }
  if (name === "traces") {
    if (inspector.chosen >= 0) inspector.select(inspector.chosen);
  } else address(name);
}

function wantedTheme() {
  try {
    return localStorage.getItem("tracelift-theme");
  } catch {
    return null; // files may not keep anything
  }
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  charts.redraw();
}

function switchTheme() {
  const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  try {
    localStorage.setItem("tracelift-theme", theme);
  } catch {
    /* then it holds for this visit */
  }
  setTheme(theme);
}

function buildHelp() {
  const dialog = document.getElementById("help");
  const said = [
    ["reward", "What the trace earned, as recorded. Outcome and quality are its two parts, by the run's own equation."],
    ["uplift", "How much better the executor did with the reasoning than without it."],
    ["grade", "The reward model's score: half of five labels 0 to 4, half of a total."],
    ["advantage", "The reward against those of the other traces of the same problem; what is learnt from."],
    ["faithful", "By the task's oracle, where it has one: every step is right and follows from the problem."],
    ...FLAGS.map(flag => [flag.long, flag.what]),
  ];
  dialog.replaceChildren(
    el(
      "div",
      {class: "where"},
      el("h2", {id: "help-title", style: {flex: "1"}}, "What is shown"),
      el("button", {type: "button", onclick: () => dialog.close(), autofocus: true}, "Close"),
    ),
    el("dl", {}, said.map(([term, what]) => [el("dt", {}, term), el("dd", {}, what)]).flat()),
    el(
      "p",
      {class: "soft"},
      "Filters add up: a trace passes all that are on. A filter's count is of the traces that pass all choices and the " +
        "search. Point at a number for all its digits.",
    ),
    el("h2", {}, "Keys"),
    el(
      "table",
      {},
      el(
        "tbody",
        {},
        KEYS.map(([key, what]) =>
          el(
            "tr",
            {},
            el(
              "th",
              {scope: "row"},
              key
                .split(/\s+/)
                .filter(part => part !== "…")
                .map(part => [el("kbd", {}, part), " "])
                .flat(),
            ),
            el("td", {}, what),
          ),
        ),
      ),
    ),
  );
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.closest("input:not([type=range]):not([type=checkbox]), select, textarea");
  if (typing) {
    if (event.key === "Escape") typing.blur();
    return;
  }
  if (document.getElementById("help").open) return;
  const panel = PANELS[Number(event.key) - 1];
  const inTraces = !document.getElementById("panel-traces").hidden && report.count > 0;
  const {groups} = report;
  const everywhere = {
    t: switchTheme,
    "?": () => document.getElementById("help").showModal(),
    "/": () => {
      openPanel("traces");
      if (report.count) inspector.search.focus();
    },
  };
  const step = number => `${groups.run[number]}/${groups.step[number]}`;
  const here = {
    j: () => inspector.move(1),
    ArrowDown: () => inspector.move(1),
    k: () => inspector.move(-1),
    ArrowUp: () => inspector.move(-1),
    ArrowRight: () => inspector.jump(1, GROUP),
    ArrowLeft: () => inspector.jump(-1, GROUP),
    "]": () => inspector.jump(1, step),
    "[": () => inspector.jump(-1, step),
    c: () => inspector.clear(),
  };
  const tab = event.target.closest("[role=tab]") && ["ArrowRight", "ArrowLeft"].includes(event.key);
  const action = tab
    ? () => stepTab(event.key === "ArrowRight" ? 1 : -1)
    : panel
      ? () => openPanel(panel[0])
      : everywhere[event.key] || (inTraces && here[event.key]);
  if (!action) return;
  event.preventDefault();
  action();
}

function stepTab(by) {
  const at = PANELS.findIndex(
    ([name]) => document.getElementById(`tab-${name}`).getAttribute("aria-selected") === "true",
  );
  const [name] = PANELS[(at + by + PANELS.length) % PANELS.length];
  openPanel(name);
  document.getElementById(`tab-${name}`).focus();
}

function openAsked() {
  const asked = location.hash.slice(1),
    trace = /^trace=(\d+)$/.exec(asked);
  if (trace && Number(trace[1]) < report.count) {
    openPanel("traces");
    inspector.open(Number(trace[1]));
  } else openPanel(PANELS.some(([name]) => name === asked) ? asked : "curves");
}

async function main() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  setTheme(wantedTheme() || (dark.matches ? "dark" : "light"));
  dark.addEventListener("change", () => {
    if (!wantedTheme()) setTheme(dark.matches ? "dark" : "light");
  });
  const holder = document.getElementById("data");
  report = await loadData(holder.textContent);
  holder.remove(); // megabytes that nobody needs twice
  const panels = document.getElementById("panels");
  panels.replaceChildren(
    chartBar(report),
    ...PANELS.map(([name]) =>
      el("section", {id: `panel-${name}`, role: "tabpanel", "aria-labelledby": `tab-${name}`, hidden: true}),
    ),
  );
  document.getElementById("tabs").append(
    ...PANELS.map(([name, label]) =>
      el(
        "button",
        {
          type: "button",
          role: "tab",
          id: `tab-${name}`,
          "aria-controls": `panel-${name}`,
          "aria-selected": "false",
          onclick: () => openPanel(name),
        },
        label,
      ),
    ),
  );
  buildHelp();
  page.listeners.push(() => charts.redraw());
  document.getElementById("theme").addEventListener("click", switchTheme);
  document.getElementById("help-button").addEventListener("click", () => document.getElementById("help").showModal());
  addEventListener("keydown", onKey);
  addEventListener("hashchange", openAsked);
  inspector.show = () => openPanel("traces");
  openAsked();
  document.documentElement.dataset.ready = "true";
}

main().catch(error => {
  document
    .getElementById("panels")
    .replaceChildren(el("p", {class: "bad", role: "alert"}, `This page could not be drawn: ${error.message}`));
  throw error;
});
