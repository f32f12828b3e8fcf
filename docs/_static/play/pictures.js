/* The pictures, as SVG of the width that there is. Colours are in play.css. */

import { histogram, number } from "./numbers.js";

export function svg(name, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

const text = (x, y, words, attributes = {}) => svg("text", { x, y, ...attributes }, words);
const line = (x1, y1, x2, y2, kind) => svg("line", { x1, y1, x2, y2, class: kind });

const ROW = 74;
const LINE = 50; // of the coordinates, below the top of their row
const TALLEST = 34;
const DOT = 9;

/* The stepsizes after each operation, one row each on a common logarithmic axis. names: what is written above each. */
export function stepsizes(target, found, names) {
  const width = target.clientWidth;
  const height = ROW * found.length + 26;
  const low = Math.floor(Math.log10(Math.min(...found.map((stage) => stage.smallest))));
  const high = Math.max(low + 1, Math.ceil(Math.log10(Math.max(...found.map((stage) => stage.largest)))));
  const place = (log) => DOT + ((log - low) / (high - low)) * (width - 2 * DOT);
  const x = (stepsize) => place(Math.log10(stepsize));
  const drawing = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
  drawing.append(...grid(low, high, place, height - 24));
  found.forEach((stage, row) => {
    const { label, formula, off } = names[row];
    const base = row * ROW + LINE;
    const group = svg("g", { class: off ? "off" : "on" });
    group.append(
      text(DOT, base - 34, "", { class: "label" }),
      text(width - DOT, base - 34, `ratio ${number(stage.ratio)}`, { class: "label", "text-anchor": "end" }),
      line(x(stage.smallest), base, x(stage.largest), base, "range"),
    );
    group.firstChild.append(svg("tspan", { class: "strong" }, label), ` ${formula}`);
    if (stage.limit <= 10 ** high) {
      group.append(line(x(stage.limit), base - 27, x(stage.limit), base + 12, "limit"));
    }
    group.append(...(stage.stepsize.length > 9 ? bars(stage, base, place) : dots(stage, base, x)));
    drawing.append(group);
  });
  target.replaceChildren(drawing);
}

/* A vertical line at each power of ten, named as far as there is room. */
function* grid(low, high, place, bottom) {
  const every = Math.ceil(36 / (place(low + 1) - place(low)));
  for (let log = low; log <= high; log++) {
    yield line(place(log), 0, place(log), bottom, "grid");
    if ((log - low) % every) continue;
    const [anchor, by] = log === low ? ["start", -DOT] : log === high ? ["end", DOT] : ["middle", 0];
    const name = text(place(log) + by, bottom + 18, "10", { "text-anchor": anchor });
    name.append(svg("tspan", { dy: -5, class: "power" }, String(log)));
    yield name;
  }
}

/* A numbered dot for each coordinate; one that would hide another is drawn above it. */
function dots(stage, base, x) {
  const order = [...stage.stepsize.keys()].sort((i, j) => stage.stepsize[i] - stage.stepsize[j]);
  const ends = []; // of the dots on each level
  return order.map((i) => {
    const at = x(stage.stepsize[i]);
    let level = ends.findIndex((end) => end <= at - DOT);
    if (level < 0) level = ends.length;
    ends[level] = at + DOT;
    const y = base - 2 * DOT * level * 0.9;
    return svg(
      "g",
      { class: `dot dot${i + 1}` },
      svg("circle", { cx: at, cy: y, r: DOT }),
      text(at, y + 4, String(i + 1), { "text-anchor": "middle" }),
    );
  });
}

function bars(stage, base, place) {
  const counts = histogram(stage.stepsize);
  const most = Math.max(...counts.values());
  const width = place(0.1) - place(0);
  return [...counts].map(([bin, count]) => {
    const height = Math.max(1, (count / most) * TALLEST * 0.8);
    const attributes = { x: place(bin / 10), y: base - height, width: Math.max(1, width - 0.5), height };
    return svg("rect", { class: "bar", ...attributes });
  });
}

/* v as an arrow of length 1 in the plane that it spans with (1, …, 1), which lies on the horizontal axis. */
export function dial(target, { cos, degrees, widest }) {
  const [radius, left, bottom] = [176, 14, 204];
  const at = (angle, r) => [left + r * Math.cos(angle), bottom - r * Math.sin(angle)];
  const [angle, limit] = [(degrees * Math.PI) / 180, (widest * Math.PI) / 180];
  const [x, y] = at(angle, radius);
  const sector = `M${left} ${bottom} H${left + radius} A${radius} ${radius} 0 0 0 ${at(limit, radius).join(" ")} Z`;
  const arc = `M${at(0, 44).join(" ")} A44 44 0 0 0 ${at(angle, 44).join(" ")}`;
  const isLeft = x < left + radius * 0.8;
  target.replaceChildren(
    svg(
      "svg",
      { viewBox: "0 0 230 230", "aria-hidden": "true" },
      svg("path", { d: sector, class: "sector" }),
      line(left, bottom, left + radius + 24, bottom, "one"),
      svg("path", { d: arc, class: "arc" }),
      line(x, y, x, bottom, "foot"),
      line(left, bottom, left + radius * cos, bottom, "cos"),
      line(left, bottom, x, y, "arrow"),
      svg("circle", { cx: x, cy: y, r: 5, class: "tip" }),
      text(left + radius + 24, bottom + 18, "(1, …, 1)", { "text-anchor": "end" }),
      text(left + Math.max(20, (radius * cos) / 2), bottom + 18, "cos ∠", { "text-anchor": "middle" }),
      text(x + (isLeft ? 8 : 0), y - 10, `v, ∠ ${degrees.toFixed(1)}°`, { "text-anchor": isLeft ? "start" : "end" }),
    ),
  );
}

export const SIDE = 4; // of the plane, in the units of v1 and v2
const [EDGE, CORNER, BELOW] = [180, 30, 202];

/* The layer of two: v itself, to be dragged, and the direction (1, 1). The svg stays, as it may have the focus. */
export function plane(picture, { v1, v2 }, { degrees }) {
  const [x, y] = [CORNER + (v1 / SIDE) * EDGE, BELOW - (v2 / SIDE) * EDGE];
  const at = (angle) => [CORNER + 44 * Math.cos(angle), BELOW - 44 * Math.sin(angle)];
  const [from, to] = [Math.PI / 4, Math.atan2(v2, v1)];
  const arc = `M${at(from).join(" ")} A44 44 0 0 ${to > from ? 0 : 1} ${at(to).join(" ")}`;
  const zero = v1 === 0 && v2 === 0;
  const isRight = x > CORNER + EDGE * 0.7;
  picture.setAttribute("viewBox", "0 0 230 230");
  picture.replaceChildren(
    svg("rect", { x: CORNER, y: BELOW - EDGE, width: EDGE, height: EDGE, class: "sector" }),
    line(CORNER, BELOW, CORNER + EDGE, BELOW - EDGE, "one"),
    ...(zero ? [] : [svg("path", { d: arc, class: "arc" })]),
    line(CORNER, BELOW, x, y, "arrow"),
    svg("circle", { cx: x, cy: y, r: 11, class: "handle" }),
    text(CORNER + EDGE + 16, BELOW - EDGE - 5, "(1, 1)", { "text-anchor": "end" }),
    text(CORNER + EDGE / 2, BELOW + 22, "v₁ · 10¹⁰", { "text-anchor": "middle" }),
    text(0, 0, "v₂ · 10¹⁰", { "text-anchor": "middle", transform: `translate(16 ${BELOW - EDGE / 2}) rotate(-90)` }),
    text(CORNER - 5, BELOW + 14, "0", { "text-anchor": "end" }),
    text(CORNER + EDGE, BELOW + 16, String(SIDE), { "text-anchor": "middle" }),
    text(CORNER - 6, BELOW - EDGE + 8, String(SIDE), { "text-anchor": "end" }),
    text(isRight ? x - 16 : x + 16, Math.max(y - 12, 32), zero ? "v = 0" : `∠ ${degrees.toFixed(1)}°`, {
      "text-anchor": isRight ? "end" : "start",
    }),
  );
}

/* The v1 and v2 under a point of the screen, not rounded. */
export function pointed(picture, { clientX, clientY }) {
  const { x, y } = new DOMPoint(clientX, clientY).matrixTransform(picture.getScreenCTM().inverse());
  return { v1: ((x - CORNER) / EDGE) * SIDE, v2: ((BELOW - y) / EDGE) * SIDE };
}
