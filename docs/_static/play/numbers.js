/* What the page shows, as numbers: the chosen layer through step.js, and how a number is written. */

import { FIVE, WEIGHTS } from "./recorded.js";
import { DEFAULTS, denominator, downScaling, trace } from "./step.js";

export const hyperparameters = ({ S, E, T, eps, tau, n }) => ({
  ...DEFAULTS,
  eps,
  tau: T ? tau : 0,
  cos_power: S ? n : 0,
  eps_inside_sqrt: E,
});

const UNIT = 1e-10; // of the second moments of the layer of two
const weights = Object.fromEntries(Object.entries(WEIGHTS).map(([step, text]) => [step, unpacked(text)]));

/* bfloat16 in base64 to numbers: its 16 bits are the upper half of a float32. */
function unpacked(text) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const wide = new DataView(new ArrayBuffer(4));
  return Float64Array.from({ length: bytes.length / 2 }, (_, i) => {
    wide.setUint8(0, bytes[2 * i + 1]);
    wide.setUint8(1, bytes[2 * i]);
    return wide.getFloat32(0);
  });
}

/* The step of the chosen layer, as `trace` returns it. Only the layer of five has g, m, update and param. */
export function stepOf(state) {
  const { layer, scale, t, step, v1, v2 } = state;
  const hp = hyperparameters(state);
  const times = (x, c) => x.map((y) => c * y);
  if (layer === "five") {
    const before = { m: times(FIVE.m, scale), v: times(FIVE.v, scale * scale), t: t - 1 };
    return trace(FIVE.param, times(FIVE.grad, scale), before, hp);
  }
  const [raw, taken] = layer === "two" ? [[v1 * UNIT, v2 * UNIT], t] : [weights[step], step];
  const v = times(raw, scale * scale);
  return { v, t: taken, ...denominator(v, taken, hp) };
}

/* After each operation, as setadam_core.show.operations does it: the stepsizes, and the limit that ε sets to them. */
export function stages(v, t, hp) {
  const outside = { ...hp, eps_inside_sqrt: false, tau: 0 };
  const settings = [{ ...outside, cos_power: 0 }, outside, { ...hp, tau: 0 }, hp];
  return settings.map((each) => {
    const { stepsize } = denominator(v, t, each);
    const floor = each.eps_inside_sqrt ? Math.sqrt(each.eps) : each.eps;
    return { stepsize, ...extremes(stepsize), limit: 1 / ((1 - each.tau) * floor) };
  });
}

export function extremes(x) {
  const smallest = x.reduce((a, b) => Math.min(a, b));
  const largest = x.reduce((a, b) => Math.max(a, b));
  return { smallest, largest, mean: x.reduce((a, b) => a + b) / x.length, ratio: largest / smallest };
}

/* The share of coordinates on the floor of w, which are those with γv̂ ≤ ε. As in setadam_core.show.statistics. */
export function floorShare(w, hp) {
  const floor = hp.eps_inside_sqrt ? Math.sqrt(hp.eps) : hp.eps;
  return w.filter((x) => x <= Math.SQRT2 * floor).length / w.length;
}

/* cos∠(v, 1) and the least that it can be, with d coordinates. */
export function angle(v) {
  const cos = Math.sqrt(downScaling(v, 2));
  return { cos, degrees: degrees(cos), widest: degrees(1 / Math.sqrt(v.length)) };
}

const degrees = (cos) => (Math.acos(cos) * 180) / Math.PI;

/* Counts in bins of a tenth of a decade: by the logarithm of the bin's lower edge, in tenths. */
export function histogram(x) {
  const counts = new Map();
  for (const y of x) {
    const bin = Math.floor(10 * Math.log10(y));
    counts.set(bin, (counts.get(bin) ?? 0) + 1);
  }
  return counts;
}

/* Four digits, with an exponent only below 0.01 and from a million, as in setadam_core.show.demo. */
export function number(x) {
  const size = Math.abs(x);
  if (size >= 1e3 && size < 1e6) return x.toFixed(0);
  if (x === 0 || (size >= 1e-2 && size < 1e3)) return String(Number(x.toPrecision(4)));
  return x.toExponential(3).replace(/e([+-])(\d)$/, "e$10$2");
}
