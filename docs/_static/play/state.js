/* What the reader has chosen: the values that each choice may have, and all of them as the part of the URL after #. */

import { WEIGHTS } from "./recorded.js";

const range = (from, to, parts) =>
  Array.from({ length: Math.round((to - from) * parts) + 1 }, (_, i) => Math.round(from * parts + i) / parts);
const decades = (from, to) => [
  ...range(from, to - 1, 1).flatMap((power) => [1, 2, 5].map((digit) => Number(`${digit}e${power}`))),
  Number(`1e${to}`),
];

/* By name, in the order in which they are shown. The second moments of the layer of two are in units of 10⁻¹⁰. */
export const CHOICES = {
  layer: ["five", "two", "weights"],
  S: [true, false],
  E: [true, false],
  T: [true, false],
  eps: decades(-20, 0),
  tau: range(0, 0.99, 100),
  n: range(0, 8, 2),
  scale: decades(-6, 6),
  t: [...range(1, 9, 1), ...decades(1, 6)],
  step: Object.keys(WEIGHTS).map(Number),
  v1: range(0, 4, 10),
  v2: range(0, 4, 10),
};

export const START = {
  layer: "five",
  ...{ S: true, E: true, T: true },
  ...{ eps: 1e-8, tau: 0.5, n: 2, scale: 1, t: 10 },
  ...{ step: 40, v1: 1, v2: 3 },
};

export const nearest = (name, x) =>
  CHOICES[name].reduce((best, y) => (Math.abs(y - x) < Math.abs(best - x) ? y : best));

/* The value behind the text: 0 or 1 for a switch, else the nearest that is allowed; the start if there is none. */
function meant(name, text) {
  if (typeof START[name] === "string") return CHOICES[name].includes(text) ? text : START[name];
  if (typeof START[name] === "boolean") return text === "0" ? false : text === "1" ? true : START[name];
  return text.trim() === "" || Number.isNaN(Number(text)) ? START[name] : nearest(name, Number(text));
}

/* #eps=1e-6&T=0: what is not named is as at the start, what is not known is ignored. */
export function read(hash) {
  const named = [...new URLSearchParams(hash.replace(/^#/, ""))].filter(([name]) => Object.hasOwn(CHOICES, name));
  return { ...START, ...Object.fromEntries(named.map(([name, text]) => [name, meant(name, text)])) };
}

/* The inverse: only what differs from the start. */
export function written(state) {
  const changed = Object.keys(CHOICES).filter((name) => state[name] !== START[name]);
  const plain = (x) => (typeof x === "boolean" ? Number(x) : x);
  return `#${changed.map((name) => `${name}=${plain(state[name])}`).join("&")}`;
}
