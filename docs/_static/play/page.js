/* The page: its controls, and all that follows from them, drawn anew after each change. */

import { angle, extremes, floorShare, histogram, hyperparameters, number, stages, stepOf } from "./numbers.js";
import { dial, plane, pointed, stepsizes, svg } from "./pictures.js";
import { CHOICES, nearest, read, START, written } from "./state.js";

const LAYERS = { five: "5 biases", two: "2 coordinates, to drag", weights: "2304 weights, recorded" };
const SWITCHES = { S: "down-scaling", E: "ε under the root", T: "translation" };
const SLIDERS = {
  eps: ["ε", "epsilon"],
  tau: ["τ", "tau"],
  n: ["n, of γ = cosⁿ∠", "power of the cosine"],
  scale: ["gradients ×", "scale of the gradients"],
  t: ["t", "number of steps"],
  step: ["t, in training", "training step"],
  v1: ["v₁ · 10¹⁰", "first second moment"],
  v2: ["v₂ · 10¹⁰", "second second moment"],
};
const SHOWN = { five: ["t"], two: ["t", "v1", "v2"], weights: ["step"] }; // beside those of all layers

function html(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

let state = read(location.hash);
const parts = {}; // of the page, by name
const main = document.getElementById("play");

function change(changed, remember = true) {
  state = { ...state, ...changed };
  if (remember) history.replaceState(null, "", written(state));
  show();
}

function build() {
  const layers = Object.entries(LAYERS).map(([name, words]) => {
    const input = html("input", { type: "radio", name: "layer", value: name });
    input.addEventListener("change", () => change({ layer: name }));
    return html("label", {}, input, ` ${words}`);
  });
  const switches = Object.entries(SWITCHES).map(([name, words]) => {
    const input = html("input", { type: "checkbox", name });
    input.addEventListener("change", () => change({ [name]: input.checked }));
    return html("label", {}, input, html("b", {}, ` ${name}`), ` ${words}`);
  });
  const sliders = Object.entries(SLIDERS).map(([name, [symbol, words]]) => {
    const allowed = CHOICES[name];
    const input = html("input", { type: "range", name, min: 0, max: allowed.length - 1, step: 1, "aria-label": words });
    input.addEventListener("input", () => change({ [name]: allowed[input.value] }));
    return html("label", { class: "slider" }, html("span", {}, symbol), input, html("output"));
  });
  const reset = html("button", { type: "button" }, "Back to the defaults");
  reset.addEventListener("click", () => change({ ...START, layer: state.layer }));
  parts.controls = html(
    "form",
    { class: "controls" },
    html("fieldset", { class: "layers" }, html("legend", {}, "Layer"), ...layers),
    html("fieldset", { class: "switches" }, html("legend", {}, "Operations"), ...switches),
    html("fieldset", { class: "sliders" }, html("legend", {}, "Numbers"), ...sliders, reset),
  );
  parts.angle = html("figure", { class: "angle" });
  parts.plane = draggable();
  parts.key = html("dl", { class: "key" });
  parts.picture = html("div", { class: "picture" });
  parts.tables = html("div", { class: "tables" });
  const note = html("p", { class: "note" }, "Stepsizes 1/w̃ after each operation, on a logarithmic axis. ");
  note.append("Dashed: the largest that ε allows, at w's floor.");
  main.replaceChildren(parts.controls, parts.angle, parts.key, note, parts.picture, parts.tables);
}

/* The picture of the layer of two, whose point follows the pointer and the arrow keys. */
function draggable() {
  const picture = svg("svg", { class: "plane", tabindex: 0, role: "slider", "aria-label": "v, in two dimensions" });
  const move = (to) => change({ v1: nearest("v1", to.v1), v2: nearest("v2", to.v2) });
  picture.addEventListener("pointerdown", (event) => {
    picture.setPointerCapture(event.pointerId);
    move(pointed(picture, event));
  });
  picture.addEventListener("pointermove", (event) => {
    if (picture.hasPointerCapture(event.pointerId)) move(pointed(picture, event));
  });
  picture.addEventListener("keydown", (event) => {
    const by = event.shiftKey ? 0.5 : 0.1;
    const directions = { ArrowLeft: [-by, 0], ArrowRight: [by, 0], ArrowUp: [0, by], ArrowDown: [0, -by] };
    if (!directions[event.key]) return;
    event.preventDefault();
    const [x, y] = directions[event.key];
    move({ v1: state.v1 + x, v2: state.v2 + y });
  });
  return picture;
}

function show() {
  main.dataset.layer = state.layer;
  showControls();
  const hp = hyperparameters(state);
  const now = stepOf(state);
  const found = stages(now.v, now.t, hp);
  showAngle(now);
  showKey(now, found);
  stepsizes(parts.picture, found, rows());
  showTables(now, found);
}

function showControls() {
  const shown = ["eps", "tau", "n", "scale", ...SHOWN[state.layer]];
  for (const input of parts.controls.querySelectorAll("input")) {
    const { name, type } = input;
    if (type === "radio") input.checked = input.value === state.layer;
    if (type === "checkbox") input.checked = state[name];
    if (type !== "range") continue;
    input.value = CHOICES[name].indexOf(state[name]);
    input.setAttribute("aria-valuetext", state[name]);
    input.disabled = (name === "tau" && !state.T) || (name === "n" && !state.S);
    input.nextSibling.textContent = input.disabled ? "off" : short(state[name]);
    input.parentElement.hidden = !shown.includes(name);
  }
}

/* 1e-8 as that, and numbers near 1 as decimals. */
const short = (x) => (x !== 0 && (x < 1e-2 || x >= 1e5) ? x.toExponential() : String(x));

/* Names, formulas and whether an operation is off, of the rows of the picture. */
function rows() {
  const { S, E, T } = state;
  const gamma = S ? "γv̂" : "v̂";
  const formulas = ["1/(√v̂ + ε)", `1/(√${S ? "(γv̂)" : "v̂"} + ε)`];
  formulas.push(E ? `1/w = 1/√(${gamma} + ε)` : formulas[1], T ? "1/w̃ = 1/(w - τ min w)" : "1/w̃ = 1/w");
  const names = ["Adam", S ? "S" : "S is off", E ? "E" : "E is off", T ? "T" : "T is off"];
  const off = [false, !S, !E, !T];
  return names.map((label, i) => ({ label, formula: formulas[i], off: off[i] }));
}

function showAngle(now) {
  const found = angle(now.v);
  if (state.layer === "two") {
    parts.plane.setAttribute("aria-valuenow", found.degrees.toFixed(1));
    parts.plane.setAttribute("aria-valuetext", `v₁ ${state.v1}, v₂ ${state.v2}, ${found.degrees.toFixed(1)}°`);
    plane(parts.plane, state, found);
    if (!parts.plane.isConnected) parts.angle.replaceChildren(parts.plane);
    return;
  }
  dial(parts.angle, found);
}

function showKey(now, found) {
  const { degrees, widest } = angle(now.v);
  const hp = hyperparameters(state);
  const [adam, , , last] = found;
  const items = [
    ["γ", value(now.gamma), `∠(v, 1) ${degrees.toFixed(1)}°, at most ${widest.toFixed(1)}°`],
    ["min w", value(now.w_min), `floor ${state.E ? "√ε" : "ε"} = ${number(state.E ? Math.sqrt(hp.eps) : hp.eps)}`],
    ["largest/smallest", value(last.ratio), `Adam's ${number(adam.ratio)}`],
    ["on the floor", value(floorShare(now.w, hp)), "share of coordinates"],
  ];
  const shown = items.map(([name, figure, note]) =>
    html("div", {}, html("dt", {}, name), html("dd", {}, figure, html("small", {}, note))),
  );
  parts.key.replaceChildren(...shown);
}

const value = (x) => html("data", { value: x }, number(x));

function table(caption, head, body) {
  const cells = ([name, ...numbers]) => [
    html("th", { scope: "row" }, name),
    ...numbers.map((x) => html("td", {}, typeof x === "number" ? value(x) : x)),
    ...head.slice(numbers.length + 1).map(() => html("td")),
  ];
  return html(
    "div",
    { class: "wide", tabindex: 0, role: "region", "aria-label": caption },
    html(
      "table",
      {},
      html("caption", {}, caption),
      html("thead", {}, html("tr", {}, ...head.map((words) => html("th", { scope: "col" }, words)))),
      html("tbody", {}, ...body.map((row) => html("tr", {}, ...cells(row)))),
    ),
  );
}

function showTables(now, found) {
  const names = rows();
  const columns = ["smallest", "mean", "largest", "ratio", "limit"];
  const after = found.map((stage, i) => [names[i].label, ...columns.map((column) => stage[column])]);
  const tables = [table("Stepsizes after each operation", ["", ...columns], after)];
  if (state.layer === "weights") tables.push(training(), summary(now), folded("The numbers of the bars", bins(found)));
  else tables.push(coordinates(now));
  parts.tables.replaceChildren(...tables);
}

/* Closed at first, and later as the reader left it. */
function folded(title, content) {
  const open = parts.tables.querySelector("details")?.open;
  return html("details", open ? { open: "" } : {}, html("summary", {}, title), content);
}

const SYMBOLS = {
  ...{ g: "g", m: "m", v: "v", gamma: "γ", v_scaled: "γv", w: "w", w_min: "min w" },
  ...{ w_shifted: "w̃", stepsize: "1/w̃", update: "q", param: "θ - q" },
};

function coordinates(now) {
  const body = Object.entries(SYMBOLS)
    .filter(([name]) => name in now)
    .map(([name, symbol]) => [symbol, ...(typeof now[name] === "number" ? [now[name]] : now[name])]);
  const head = ["", ...Array.from(now.v, (_, i) => String(i + 1))];
  return table("The step, coordinate by coordinate", head, body);
}

function summary(now) {
  const arrays = ["v", "v_scaled", "w", "w_shifted", "stepsize"].map((name) => {
    const { smallest, mean, largest } = extremes(now[name]);
    return [SYMBOLS[name], smallest, mean, largest];
  });
  const body = [...arrays, [SYMBOLS.gamma, "", now.gamma, ""], [SYMBOLS.w_min, now.w_min, "", ""]];
  return table("The step, over the layer", ["", "smallest", "mean", "largest"], body);
}

function training() {
  const body = CHOICES.step.map((step) => {
    const hp = hyperparameters(state);
    const now = stepOf({ ...state, step });
    const found = stages(now.v, now.t, hp);
    return [String(step), now.gamma, floorShare(now.w, hp), ...found.map(({ ratio }) => ratio)];
  });
  const head = ["t", "γ", "on the floor", ...rows().map(({ label }) => `ratio, ${label}`)];
  return table("Over training, with these settings", head, body);
}

function bins(found) {
  const counts = found.map(({ stepsize }) => histogram(stepsize));
  const edges = [...new Set(counts.flatMap((each) => [...each.keys()]))].sort((a, b) => a - b);
  const body = edges.map((bin) => [`from ${number(10 ** (bin / 10))}`, ...counts.map((each) => each.get(bin) ?? 0)]);
  return table("How many stepsizes are in each bar", ["", ...rows().map(({ label }) => label)], body);
}

build();
show();
addEventListener("hashchange", () => {
  if (location.hash.includes("=") || location.hash === "") change(read(location.hash), false);
});
new ResizeObserver(show).observe(main);
