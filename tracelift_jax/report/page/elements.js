"use strict";

/** An element. Texts become text nodes, never markup: what runs wrote is not to be trusted. */
function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") Object.entries(value).forEach(([key, item]) => node.style.setProperty(key, item));
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter(child => child !== null && child !== undefined && child !== false));
  return node;
}

/** A number to read, with the exact one at hand. */
function num(value, how = short) {
  return el("span", {class: "num", "data-exact": String(value), title: String(value)}, how(value));
}

function table(head, rows, attributes = {}) {
  return el(
    "div",
    {class: "scroll", tabindex: "0", role: "region", "aria-label": attributes.label || "table"},
    el(
      "table",
      {class: attributes.class},
      el(
        "thead",
        {},
        el(
          "tr",
          {},
          head.map(cell => el("th", {scope: "col"}, cell)),
        ),
      ),
      el(
        "tbody",
        {},
        rows.map(([first, ...cells]) =>
          el(
            "tr",
            {},
            el("th", {scope: "row"}, first),
            cells.map(cell => el("td", {}, cell)),
          ),
        ),
      ),
    ),
  );
}

/** A text, with everything that equals the query (whatever its case) marked. */
function found(text, query) {
  if (!query) return [text];
  const out = [],
    lower = text.toLowerCase();
  if (lower.length !== text.length) return [text]; // places would not agree
  let at = 0;
  for (let hit = lower.indexOf(query); hit >= 0; hit = lower.indexOf(query, at)) {
    out.push(text.slice(at, hit), el("mark", {class: "hit"}, text.slice(hit, hit + query.length)));
    at = hit + query.length;
  }
  return [...out, text.slice(at)];
}

const color = number => `var(--run${number % 8})`;
const style = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** Makes the page's address lead here, a little later: browsers do not let it change very often. */
function address(part) {
  if (location.protocol === "about:") return;  // in a notebook's frame, which has none
  clearTimeout(address.later);
  address.later = setTimeout(() => history.replaceState(null, "", `#${part}`), 250);
}

/** Page-wide choices, and who wants to know when they change. */
const page = {
  smoothing: 0.8,
  hidden: new Set(),
  together: false,
  listeners: [],
  changed() {
    this.listeners.forEach(listener => listener());
  },
};
