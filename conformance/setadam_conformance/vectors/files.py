"""Writing the vector files: exact outputs as double-doubles, and a bound for each, rounded up."""

import hashlib
import itertools
import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from setadam_conformance.cases.case import Case, LayerCase, case_to_json, real_view
from setadam_conformance.cases.formats import FORMATS, Arithmetic, Wide
from setadam_conformance.judging import oracle
from setadam_conformance.judging.exact import exact_step
from setadam_conformance.protocol import Capabilities
from setadam_conformance.vectors.catalogue import FLAGS, Entry, entries

SCHEMA = "setadam-vectors/1"
SINCE = "0.1.0"  # of new vectors; those already in the folder keep their version
BOUND_BITS = 12  # of a stored bound's significand: short, and at most a factor 1 + 2⁻¹¹ too large
DTYPES = tuple(FORMATS)

# The claims that widen a bound. A bound's key lists them, and "" is the bound without any.
CLAIMS: dict[str, dict[str, Any]] = {
    "any": {"reduction": "any"},
    "flush": {"flushes_subnormals": True},
    "traced": {"traced_t": True},
}


def generate(folder: Path) -> None:
    """Write one file for each dtype into the folder. The bytes are the same on every machine."""
    folder.mkdir(parents=True, exist_ok=True)
    for dtype in DTYPES:
        path = folder / f"{dtype}.json"
        since = {}
        if path.exists():
            since = {v["id"]: v["since"] for v in json.loads(path.read_text(encoding="utf-8"))["vectors"]}
        path.write_text(render(dtype, since), encoding="utf-8", newline="\n")


def render(dtype: str, since: dict[str, str]) -> str:
    """The text of a dtype's file, one vector per line. since: the first version of each known id."""
    all_entries = list(entries(dtype))
    vectors = [encode(entry, since) for entry in all_entries]
    flags = {flag for entry in all_entries for flag in entry.flags}
    head = {
        "schema": SCHEMA,
        "dtype": dtype,
        "count": len(vectors),
        "notes": {
            name: {"shows": shows, "catches": catches} for name, (shows, catches) in FLAGS.items() if name in flags
        },
    }
    lines = json.dumps(head, indent=1, ensure_ascii=False).removesuffix("\n}")
    body = ",\n".join(json.dumps(vector, ensure_ascii=False, separators=(",", ":")) for vector in vectors)
    return f'{lines},\n "vectors": [\n{body}\n]}}\n'


def encode(entry: Entry, since: dict[str, str]) -> dict[str, Any]:
    """One vector as JSON."""
    case = encode_case(entry.case)
    identity = vector_id(case)
    vector: dict[str, Any] = {
        "id": identity,
        "slug": entry.slug,
        "since": since.get(identity, SINCE),
        "flags": list(entry.flags),
        "note": entry.note,
        "result": entry.result,
        "case": case,
    }
    if entry.result == "value":
        vector["out"] = [encode_outputs(entry.case, layer) for layer in entry.case.layers]
    return vector


def encode_case(case: Case) -> dict[str, Any]:
    """The case in canonical form: bit patterns, hexadecimal floats, t."""
    data = case_to_json(case)
    del data["extra"]
    return data


def vector_id(case: dict[str, Any]) -> str:
    """The first 12 hexadecimal digits of the SHA-256 of the case as compact JSON with sorted keys."""
    canonical = json.dumps(case, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()[:12]


def encode_outputs(case: Case, layer: LayerCase) -> dict[str, Any]:
    """Exact m, v and θ of a layer in the C order of its real view, or {"param": "nan"} if it is poisoned."""
    if not all(
        np.all(np.isfinite(real_view(x).astype(np.float64))) for x in (layer.param, layer.grad, layer.m, layer.v)
    ):
        return {"param": "nan"}
    step = exact_step(case, layer)
    exact = {"m": step.m, "v": step.v, "param": step.theta}
    d = layer.m.size
    short = oracle.chain(d, "any") == oracle.chain(d, "pairwise")  # then the bound under "any" is the same
    keys = [key for key in _keys() if not (short and "any" in key.split())]
    widened = {key: bounds(case, layer, step.m, step.v, key) for key in keys}
    out = {}
    for stage, numbers in exact.items():
        values = [fraction(x) for x in numbers]
        high = [float(x) for x in values]
        low = [float(x - Fraction(h)) for x, h in zip(values, high, strict=True)]
        # The part that two doubles cannot hold (below the subnormals) is added to the bound.
        lost = [abs(x - Fraction(a) - Fraction(b)) for x, a, b in zip(values, high, low, strict=True)]
        kept: dict[str, list[float]] = {}
        for key in keys:
            bound = [round_up(fraction(b) + e) for b, e in zip(widened[key][stage], lost, strict=True)]
            if bound != select_bound(kept, key.split(), len(values)):
                kept[key] = bound
        out[stage] = {
            "hi": [short_hex(x) for x in high],
            "lo": [short_hex(x) for x in low],
            "bound": {key: [short_hex(x) for x in bound] for key, bound in kept.items()},
        }
    return out


def _keys() -> list[str]:
    """Every set of claims as a key, fewest claims first."""
    return [" ".join(words) for n in range(len(CLAIMS) + 1) for words in itertools.combinations(CLAIMS, n)]


def select_bound(bounds: dict[str, list[float]], claims: list[str], size: int) -> list[float] | None:
    """The elementwise largest of the bounds all of whose words are claimed; None if there is none."""
    apply = [bound for key, bound in bounds.items() if set(key.split()) <= set(claims)]
    return [max(bound[i] for bound in apply) for i in range(size)] if apply else None


class Exact(Arithmetic):
    """mpmath for every format: the same with and without a long double, and exact for moments that are not floats."""

    def __init__(self) -> None:
        super().__init__("float64", longdouble=False)

    def array(self, x: Any) -> Wide:
        x = np.asarray(x)
        return x if x.dtype == object else super().array(x)


_EXACT = Exact()


def bounds(case: Case, layer: LayerCase, m: list[Any], v: list[Any], key: str) -> dict[str, list[Any]]:
    """The bound of each stage under a set of claims, in the order of `encode_outputs`.

    A vector stores θ from the exact moments, not from the moments that the implementation returned. So its bound covers
    the errors of the moments too, unlike the oracle's staged bound. A correct implementation computes θ from some m'
    and v' within the bounds B of the moments, |m' - m| ≤ B, whether they are rounded, or computed a second time. The
    oracle has such a bound for implementations that recompute the moments. There, the recomputed and the *returned*
    moments are both within B of the exact ones, so within 2B of each other. Here the reference is the exact moment, so
    B is enough: half of what the oracle allows.
    """
    words = key.split()
    settings = {name: value for word in words for name, value in CLAIMS[word].items()}
    claims = Capabilities(dtypes=(case.dtype,), recomputes_moments=True, **settings)
    m_ref, v_ref = oracle.moments(case, layer, claims, _EXACT)
    exact_m, exact_v = (_objects(x, layer.m.shape) for x in (m, v))
    moment_bounds = (np.asarray(m_ref.bound / 2), np.asarray(v_ref.bound / 2))
    theta = oracle.parameter(case, layer, exact_m, exact_v, claims, _EXACT, moment_bounds)
    references = {"m": m_ref, "v": v_ref, "param": theta}
    if not all(np.all(reference.judged) for reference in references.values()):
        raise ValueError(f"a vector must lie where the bound holds: {case}")
    return {stage: list(np.ravel(reference.bound)) for stage, reference in references.items()}


def oracle_values(case: Case, layer: LayerCase) -> dict[str, list[Fraction]]:
    """The first oracle's m, v and θ to 200 bits, with θ from its own moments."""
    claims = Capabilities(dtypes=(case.dtype,))
    m, v = oracle.moments(case, layer, claims, _EXACT)
    theta = oracle.parameter(case, layer, m.value, v.value, claims, _EXACT)
    stages = {"m": m, "v": v, "param": theta}
    return {stage: [fraction(x) for x in np.ravel(reference.value)] for stage, reference in stages.items()}


def _objects(numbers: list[Any], shape: tuple[int, ...]) -> Wide:
    x = np.empty(len(numbers), object)
    x[:] = [_EXACT.context.mpf(number) for number in numbers]
    return x.reshape(shape)


def fraction(x: Any) -> Fraction:
    """The exact value of an mpmath number or a float."""
    if not hasattr(x, "man_exp"):
        return Fraction(float(x))
    significand, exponent = x.man_exp  # of |x|
    size = Fraction(int(significand)) * Fraction(2) ** int(exponent)
    return -size if x < 0 else size


def round_up(x: Fraction) -> float:
    """The smallest float of BOUND_BITS bits that is at least x ≥ 0."""
    if x == 0:
        return 0.0
    scaled, exponent = math.frexp(float(x)) if float(x) else (0.5, -1073)
    steps = math.ceil(math.ldexp(scaled, BOUND_BITS))
    rounded = math.ldexp(steps, exponent - BOUND_BITS)
    while Fraction(rounded) < x:
        steps += 1
        rounded = math.ldexp(steps, exponent - BOUND_BITS)
    return rounded


def short_hex(x: float) -> str:
    """The hexadecimal float without trailing zeros, as C's strtod and Python's fromhex read it."""
    digits, exponent = x.hex().split("p")
    return f"{digits.rstrip('0').rstrip('.') if '.' in digits else digits}p{exponent}"
