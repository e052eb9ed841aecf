"use strict";

/** Configuration: where runs differ, and each as it is. */
function settingsPanel(data) {
  const shown = value => (value === null ? el("span", {class: "soft"}, "not there") : el("code", {}, value));
  const rows = data.differences.map(({path, values}) => [el("code", {}, path), ...values.map(shown)]);
  const differ =
    data.runs.length < 2
      ? el("p", {}, "One run: there is nothing to compare.")
      : rows.length
        ? table(["", ...data.runs.map(run => run.name)], rows, {class: "settings", label: "Settings that differ"})
        : el("p", {}, "The runs have the same configuration.");
  return [
    el("h2", {}, "Where the configurations differ"),
    el("div", {id: "differences"}, differ),
    el("h2", {}, "Configurations"),
    data.runs.map(run =>
      el(
        "details",
        {},
        el("summary", {}, run.name),
        run.gin
          ? el("pre", {}, run.gin)
          : table(
              ["", "value"],
              Object.entries(run.config).map(([path, value]) => [path, el("code", {}, value)]),
              {class: "settings", label: run.name},
            ),
      ),
    ),
  ];
}
