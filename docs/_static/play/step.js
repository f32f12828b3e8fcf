/* SET-Adam, one step of one layer, in the order of setadam_core/spec.py (arXiv 2302.01029, algorithm 1).
 *
 *     mₜ = β₁ mₜ₋₁ + (1-β₁) gₜ                       first moment
 *     vₜ = β₂ vₜ₋₁ + (1-β₂) gₜ²                      second moment, stored as is
 *     γₜ = cos²∠(vₜ, 1) = (Σ vₜ)² / (d Σ vₜ²)        S  down-scaling
 *     wₜ = √(γₜ vₜ / (1-β₂ᵗ) + ε)                    E  ε-embedding
 *     w̃ₜ = wₜ - τ min(wₜ)                            T  down-translating
 *     θₜ = θₜ₋₁ - η/(1-β₁ᵗ) mₜ / w̃ₜ                  update
 *
 * `trace` is that list in code. A layer is a flat array of numbers, and is not written to; a complex number is two
 * coordinates. The arithmetic is float64. Layers of float32 are rounded once, where they are stored.
 */

export const DEFAULTS = {
  lr: 1e-3,
  beta1: 0.9,
  beta2: 0.999,
  eps: 1e-8,
  tau: 0.5,
  weight_decay: 0,
  decoupled_weight_decay: false,
  maximize: false,
  cos_power: 2,
  eps_inside_sqrt: true,
};

/* The smallest normal and the largest number, and rounding to the dtype. */
const DTYPES = {
  float64: { tiny: 2 ** -1022, huge: Number.MAX_VALUE, stored: (x) => x },
  float32: { tiny: 2 ** -126, huge: (2 - 2 ** -23) * 2 ** 127, stored: Math.fround },
};

/* The state before the first step. */
export const init = (param) => ({ m: map(param, () => 0), v: map(param, () => 0), t: 0 });

/* One step: the new parameter and state. RangeError for what `check` does not allow. */
export function step(param, grad, state, hp, dtype = "float64") {
  const now = trace(param, grad, state, hp, dtype);
  return { param: now.param, state: { m: now.m, v: now.v, t: now.t } };
}

/* One step with every intermediate, by the names of setadam_core.trace. gamma and w_min are numbers. */
export function trace(param, grad, state, hp, dtype = "float64") {
  check(param, grad, state, hp, dtype);
  const { stored } = DTYPES[dtype];
  const t = state.t + 1;
  const coupled = hp.decoupled_weight_decay ? 0 : hp.weight_decay;
  const kept = hp.decoupled_weight_decay ? 1 - hp.lr * hp.weight_decay : 1;

  let g = map(grad, (x) => (hp.maximize ? -x : x));
  if (coupled !== 0) g = map(g, (x, i) => x + coupled * param[i]);
  const m = map(state.m, (x, i) => stored(hp.beta1 * x + (1 - hp.beta1) * g[i]));
  const v = map(state.v, (x, i) => stored(hp.beta2 * x + (1 - hp.beta2) * (g[i] * g[i])));
  const divisor = denominator(v, t, hp);
  const rate = hp.lr / biasCorrection(hp.beta1, t);
  const update = map(m, (x, i) => (rate * x) / divisor.w_shifted[i]);
  const after = map(param, (x, i) => stored(kept * x - update[i]));
  return { g, m, v, ...divisor, update, param: after, t };
}

/* The second half of `trace`: S, E and T, of the second moment after t ≥ 1 steps. */
export function denominator(v, t, hp) {
  const gamma = downScaling(v, hp.cos_power);
  const v_scaled = map(v, (x) => gamma * x);
  const correction = biasCorrection(hp.beta2, t);
  const w = map(v_scaled, (x) => embedEpsilon(x / correction, hp));
  const w_min = w.reduce((a, b) => Math.min(a, b), Infinity);
  const w_shifted = map(w, (x) => x - hp.tau * w_min);
  const stepsize = map(w_shifted, (x) => 1 / x);
  return { gamma, v_scaled, w, w_min, w_shifted, stepsize };
}

/* 1 - βᵗ, which cancels in the first steps if it is computed so. */
export const biasCorrection = (beta, t) => (beta === 0 ? 1 : -Math.expm1(t * Math.log(beta)));

/* S: γ = cosⁿ∠(v, 1). Taken of v / max v, as it depends on v's direction alone; rounding can carry it past 1. */
export function downScaling(v, power) {
  const largest = v.reduce((a, b) => Math.max(a, b), 0); // NaN if any is
  if (power === 0 || largest === 0) return 1;
  const r = map(v, (x) => x / largest);
  const s1 = sum(r);
  const cos2 = Math.min((s1 / r.length) * (s1 / sum(map(r, (x) => x * x))), 1);
  return power === 2 ? cos2 : cos2 ** (power / 2);
}

/* E: w = √(v̂ + ε), never below √ε; √v̂ + ε in the ablation. */
const embedEpsilon = (vHat, hp) => (hp.eps_inside_sqrt ? Math.sqrt(vHat + hp.eps) : Math.sqrt(vHat) + hp.eps);

/* By halving: a long sum from left to right would be wrong in more digits. */
function sum(x, from = 0, to = x.length) {
  let total = 0;
  const half = (from + to) >> 1;
  if (to - from > 16) return sum(x, from, half) + sum(x, half, to);
  for (let i = from; i < to; i++) total += x[i];
  return total;
}

const map = (x, f) => Float64Array.from(x, f);

/* Throw a RangeError before anything is computed, for a layer or a hyperparameter that does not fit. */
function check(param, grad, { m, v, t }, hp, dtype) {
  const must = (holds, name, allowed, got) => {
    if (!holds) throw new RangeError(`${name} must be ${allowed}, got ${got}`);
  };
  must(Object.hasOwn(DTYPES, dtype), "dtype", Object.keys(DTYPES).join(" or "), dtype);
  const { tiny, huge } = DTYPES[dtype];
  const real = (name, allowed, holds) => must(typeof hp[name] === "number" && holds(hp[name]), name, allowed, hp[name]);
  const between = (name, from, to) => real(name, `from ${from} to ${to}`, (x) => x >= from && x <= to);
  for (const [name, x] of Object.entries({ grad, m, v }))
    must(x.length === param.length, name, `as long as param, ${param.length}`, x.length);
  must(Number.isInteger(t) && t >= 0, "t", "a whole number ≥ 0", t);
  for (const name of ["lr", "weight_decay"]) between(name, 0, huge);
  between("eps", tiny, huge);
  between("cos_power", 0, Number.MAX_VALUE);
  for (const name of ["beta1", "beta2", "tau"]) real(name, "in [0, 1)", (x) => x >= 0 && x < 1);
  for (const name of ["decoupled_weight_decay", "maximize", "eps_inside_sqrt"])
    must(typeof hp[name] === "boolean", name, "true or false", hp[name]);
}
