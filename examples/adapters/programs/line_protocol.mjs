/* The line protocol of setadam-conformance (docs/conformance.md), for any optimizer in JavaScript. */

import { createInterface } from "node:readline";

/* Reply to the kit until it says stop.
 *
 * claims: those of docs/conformance.md, with `dtypes`, and perhaps a `name`.
 * step: gets { dtype, hp, t, layers }. t is the number of steps taken. A layer has its `shape`, its `axes` (null unless
 *   you claim layer_axes), and `param`, `grad`, `m` and `v` as flat arrays of numbers, the last axis fastest. It
 *   returns, or promises, { t, layers }, with iterables of numbers `param`, `m` and `v` in each layer. An exception
 *   that it throws is a refusal of the step.
 */
export async function serve(claims, step) {
  for await (const line of createInterface({ input: process.stdin })) {
    const asked = JSON.parse(line);
    if (asked.cmd === "stop") break;
    const reply = asked.cmd === "start" ? { protocol: 1, ...claims } : await answer(asked, step);
    process.stdout.write(JSON.stringify(reply) + "\n");
  }
}

async function answer({ seq, dtype, hp, t, layers }, step) {
  try {
    const settings = Object.fromEntries(Object.entries(hp).map(([name, value]) => [name, setting(value)]));
    const after = await step({ dtype, hp: settings, t, layers: layers.map(readLayer) });
    return { seq, t: after.t, layers: after.layers.map(writeLayer) };
  } catch (error) {
    return { seq, error: { kind: error.name, message: error.message } };
  }
}

const setting = (value) => (typeof value === "string" ? parse(value) : value); // switches are JSON's true and false

const readLayer = ({ shape, axes, param, grad, m, v }) => ({
  shape,
  axes,
  param: param.map(parse),
  grad: grad.map(parse),
  m: m.map(parse),
  v: v.map(parse),
});

const writeLayer = ({ param, m, v }) => ({
  param: Array.from(param, print),
  m: Array.from(m, print),
  v: Array.from(v, print),
});

const SPECIAL = { nan: NaN, inf: Infinity, "-inf": -Infinity };

/* The number behind C99's hexadecimal, as in "-0x1.8p-3". Exact: the digits are a whole number below 2**53. */
export function parse(text) {
  const found = /^(-?)0x([01])\.?([0-9a-f]*)p([+-]?\d+)$/.exec(text);
  if (!found) return SPECIAL[text];
  const [, sign, lead, digits, power] = found;
  const size = parseInt(lead + digits, 16) * 2 ** (Number(power) - 4 * digits.length);
  return sign ? -size : size;
}

const view = new DataView(new ArrayBuffer(8));

/* The inverse of parse, from the bits of the double: sign, 11 bits of exponent, 52 bits = 13 digits. */
export function print(x) {
  if (Number.isNaN(x)) return "nan";
  if (!Number.isFinite(x)) return x > 0 ? "inf" : "-inf";
  view.setFloat64(0, x);
  const bits = view.getBigUint64(0).toString(16).padStart(16, "0");
  const head = parseInt(bits.slice(0, 3), 16);
  const exponent = head % 2048;
  const lead = exponent ? 1 : 0; // 0 in subnormals, which have the exponent of the smallest normal number
  return `${head >= 2048 ? "-" : ""}0x${lead}.${bits.slice(3)}p${(exponent || 1) - 1023}`;
}
