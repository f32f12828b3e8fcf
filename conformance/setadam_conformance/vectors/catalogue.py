"""The cases of the test vectors: a catalogue of slugs, flags and builders, the same for each dtype.

Every number is a significand and an exponent of the format, drawn from Python's `random.Random` with a seed from dtype
and slug. So it is exact, and the same on every platform. The case of a slug never changes, because a vector's id is the
hash of its case: a new idea gets a new slug.

The file is long because it is a table: one entry after another.
"""

import math
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from setadam_conformance.cases.case import DEFAULTS, Case, LayerCase, dtype_of
from setadam_conformance.cases.formats import FORMATS, Format, compute_format
from setadam_conformance.protocol import NumPyArray

Range = tuple[int, int]  # of binary exponents, both inclusive
Settings = dict[str, Any]  # hyperparameters other than the defaults

# flag: what its vectors have in common, and which faults they catch. The texts are part of the published files.
FLAGS: dict[str, tuple[str, str]] = {
    "first-step": ("t = 1, from zero moments", "bias correction left out, or made with t - 1"),
    "large-t": ("t up to 10⁹", "step counters that wrap or saturate, βᵗ from repeated rounding"),
    "bias-correction": ("t between the first step and the limit", "t ± 1, β1 and β2 swapped, 1 - βᵗ in float32"),
    "constant-v": ("equal v: γ is 1", "γ without the division by d, or with d ± 1"),
    "all-zero": ("a layer whose v is all zero", "0/0 in γ, an early return that skips θ"),
    "one-coordinate": ("d = 1: γ is 1 and the minimum is the coordinate itself", "d - 1, an empty minimum"),
    "sizes": ("d around blocks and lanes", "a block's tail left out or padded, d rounded up"),
    "long-sum": ("d at which the order of summation matters to the bound", "the last entries left out of a sum"),
    "dominant-v": ("one v far above the others: γ is near 1/d", "γ floored, from √v, or its square or root taken"),
    "subnormal": ("gradients or moments below the smallest normal number", "γ from Σv² that underflows to 0/0"),
    "tiny": ("v so small that v² underflows, and ε smaller still", "guards like 1e-20 in γ, unscaled Σv²"),
    "huge": ("v so large that v² overflows", "unscaled Σv², gradients clipped"),
    "wide-range": ("magnitudes over many binades in one layer", "sums in a narrower format, gradients clipped"),
    "theta-zero": ("θ = 0, so that θ's rounding hides no error", "small errors of the update, as of γ"),
    "theta-large": ("θ far above the update", "θ moved or rounded once too often"),
    "zero-gradient": ("exact zeros among the gradients", "coordinates without a gradient skipped"),
    "zero-v": ("exact zeros among v", "the minimum taken over non-zero v, 0/0"),
    "weight-decay": ("λθ added to the gradient", "decay left out, decoupled, or left out of v"),
    "decoupled-weight-decay": ("θ shrunk by 1 - ηλ", "decay added to the gradient, without η, after the update"),
    "maximize": ("ascent", "the sign of the decay turned too, the sign of m or of θ turned"),
    "tau": ("τ other than 0.5, and v unequal", "τ fixed, 1 - τ, the mean or the maximum taken off"),
    "beta-edge": ("β1 or β2 at 0 or close to 1", "log 0 in the bias correction, β fixed"),
    "cos-power": ("γ = cosⁿ with n other than 2", "n fixed, or γ raised to n"),
    "eps-outside": ("ε after the root", "ε under the root"),
    "eps-dominated": ("ε far above γv̂", "ε after the root, before the bias correction, or squared"),
    "tied-minima": ("several coordinates share the smallest w", "a minimum taken off at one place only"),
    "layers": ("several layers in one call", "γ, the minimum or d of one layer, or of all, used for each"),
    "layer-axes": ("slices of one array as layers", "γ or the minimum taken over the whole array"),
    "complex": ("complex parameters as pairs of reals", "|g|² for v, a layer for each part, d instead of 2d"),
    "square": ("square matrices", "updates transposed, γ or the minimum by row"),
    "empty": ("arrays without elements", "the minimum of nothing, division by d = 0"),
    "zero-dim": ("arrays without axes", "the axis of a reduction fixed at 0, a scalar returned"),
    "bit-patterns": ("random bit patterns", "moments rounded to the parameter's format, θ rounded twice"),
    "adam": ("S and T off: Adam with ε under the root", "γ or τ applied all the same"),
    "cancellation": ("m and g of opposite signs", "m in a narrower format, wrong weights of m and g"),
    "learning-rate": ("η other than the default", "η fixed, or taken into the moments"),
    "poison": ("NaN or infinity in one of several layers", "NaN replaced by 0, or spread to other layers"),
    "reject": ("hyperparameters out of range", "input that is not checked"),
}  # fmt: skip


class Entry(NamedTuple):
    slug: str
    flags: tuple[str, ...]
    note: str
    case: Case
    result: str = "value"  # or "reject"


class _Draw:
    """Random arrays of a format, from a seed."""

    def __init__(self, dtype: str, seed: str) -> None:
        self.dtype, self.storage, self.compute = dtype, FORMATS[dtype], compute_format(dtype)
        self._random = random.Random(f"{dtype}/{seed}")

    def number(self, fmt: Format, exponents: Range, *, signed: bool = True) -> float:
        """A number in a random binade of the range; a subnormal number if the binade is below the normal ones."""
        low, high = exponents
        digits = round(-math.log2(fmt.u))
        exponent = low + int(self._random.random() * (high - low + 1))
        significand = 2 ** (digits - 1) + self._random.getrandbits(digits - 1)
        lost = max(int(math.log2(fmt.smallest_normal)) - exponent, 0)
        significand = max(significand >> lost, 1)
        sign = -1 if signed and self._random.getrandbits(1) else 1
        return sign * math.ldexp(significand, exponent - digits + 1 + lost)

    def array(self, fmt: Format, shape: tuple[int, ...], exponents: Range, *, signed: bool = True) -> NumPyArray:
        values = [self.number(fmt, exponents, signed=signed) for _ in range(math.prod(shape))]
        return np.array(values, np.float64).astype(fmt.numpy).reshape(shape)

    def layer(
        self,
        *shape: int,
        at: int | None = 0,
        g: Range = (-4, 1),
        m: Range | None = None,
        v: Range | None = None,
        fresh: bool = False,
        axes: tuple[int, ...] | None = None,
        is_complex: bool = False,
    ) -> LayerCase:
        """A layer with θ near 2^at (0 if at is None), and m and v like g and g² (0 if fresh)."""
        real_shape = (*shape, 2) if is_complex else shape
        grad = self.array(self.storage, real_shape, g)
        param = self.array(self.storage, real_shape, (at - 2, at)) if at is not None else np.zeros_like(grad)
        mean = self.array(self.compute, real_shape, m or (g[0] - 1, g[1] - 1))
        square = self.array(self.compute, real_shape, v or (2 * g[0], 2 * g[1]), signed=False)
        if fresh:
            mean, square = np.zeros_like(mean), np.zeros_like(square)
        if is_complex:
            twin = dtype_of(self.dtype, is_complex=True)
            param, grad = param.view(twin).reshape(shape), grad.view(twin).reshape(shape)
        return LayerCase(param, grad, mean, square, axes)


def entries(dtype: str) -> Iterator[Entry]:
    """The catalogue for one dtype, in the order of its file."""
    for group in _GROUPS:
        yield from group(dtype)


def _entry(
    dtype: str, slug: str, flags: str, note: str, layers: LayerCase | list[LayerCase], t: int = 10, **hp: Any
) -> Entry:
    result = "reject" if "reject" in flags.split() else "value"
    numbers = {k: x if isinstance(x, bool) else float(x) for k, x in {**DEFAULTS, **hp}.items()}
    layers = layers if isinstance(layers, list) else [layers]
    return Entry(slug, tuple(flags.split()), note, Case(dtype, tuple(layers), t, numbers), result)


def _steps(dtype: str) -> Iterator[Entry]:
    for d in (1, 2, 5, 8, 17):
        for at, name in ((None, "theta-zero"), (0, "theta-one")):
            slug = f"first-step-d{d}-{name}"
            flags = "first-step theta-zero" if at is None else "first-step"
            layer = _Draw(dtype, slug).layer(d, at=at, fresh=True)
            yield _entry(dtype, slug, flags, "the bias corrections cancel 1 - β", layer, t=0)
    for t in (1, 2, 9, 99, 999, 4999, 65535, 10**6 - 1, 2**24, 10**9 - 1):
        slug = f"after-{t}-steps"
        layer = _Draw(dtype, slug).layer(5, at=None)
        flags = ("large-t" if t > 9999 else "bias-correction") + " theta-zero"
        yield _entry(dtype, slug, flags, f"the step is number {t + 1}", layer, t=t)


def _shapes(dtype: str) -> Iterator[Entry]:
    for d in (2, 3, 5, 8, 9, 17, 64, 65):
        slug = f"size-{d}"
        yield _entry(dtype, slug, "sizes theta-zero", f"d = {d}", _Draw(dtype, slug).layer(d, at=None))
    slug = "size-129"
    layer = _Draw(dtype, slug).layer(129, at=None, g=(-2, 1))
    yield _entry(dtype, slug, "sizes long-sum theta-zero", "sequential sums have a wider bound", layer)
    for slug, t, hp in (("default", 3, {}), ("tau-0.9", 30, {"tau": 0.9}), ("tau-0", 300, {"tau": 0.0})):
        layer = _Draw(dtype, f"single-{slug}").layer(1, at=None)
        yield _entry(dtype, f"single-{slug}", "one-coordinate theta-zero", "w̃ is (1 - τ)w", layer, t=t, **hp)
    for n in (3, 8):
        slug = f"square-{n}"
        yield _entry(dtype, slug, "square", f"{n} × {n}", _Draw(dtype, slug).layer(n, n, at=-6))
    slug = "three-axes"
    yield _entry(dtype, slug, "sizes", "2 × 3 × 4", _Draw(dtype, slug).layer(2, 3, 4, at=-6))
    for slug, t in (("zero-dim", 4), ("zero-dim-first", 0)):
        layer = _Draw(dtype, slug).layer(at=-6, fresh=t == 0)
        yield _entry(dtype, slug, "zero-dim one-coordinate", "a 0-d array stays one", layer, t=t)
    draw = _Draw(dtype, "empty")
    yield _entry(dtype, "empty", "empty", "nothing in, nothing out", draw.layer(0))
    yield _entry(dtype, "empty-matrix", "empty", "shape is kept", draw.layer(2, 0, 3))
    yield _entry(dtype, "empty-beside", "empty layers", "the other layer moves", [draw.layer(0), draw.layer(3)])


def _second_moments(dtype: str) -> Iterator[Entry]:
    scales = {"unit": 0, "small": -8, "large": 8}
    for name, e in scales.items():
        for d in (3, 9):
            slug = f"constant-v-{name}-d{d}"
            layer = _Draw(dtype, slug).layer(d, at=None, g=(e, e))
            for x in (layer.grad, layer.v):
                x[:] = x[0]
            yield _entry(dtype, slug, "constant-v tied-minima theta-zero", "γ is exactly 1", layer, t=99)
    for d, ratio in ((2, 20), (8, 20), (9, 60), (65, 40)):
        slug = f"dominant-v-d{d}-2^{ratio}"
        layer = _Draw(dtype, slug).layer(d, at=None, g=(-6, -4))
        layer.v[d // 2] = 2.0 ** (ratio - 20)
        yield _entry(dtype, slug, "dominant-v theta-zero", f"γ is near 1/{d}", layer, t=50, eps=1e-12)
    for d in (4, 17):
        slug = f"tied-minima-d{d}"
        layer = _Draw(dtype, slug).layer(d, at=None)
        for x in (layer.grad, layer.v):
            x[: d // 2] = np.min(np.abs(x)) / 2
        yield _entry(dtype, slug, "tied-minima theta-zero", "half of the coordinates tie", layer, tau=0.9)
    for share in (2, 3):
        slug = f"zeros-every-{share}"
        layer = _Draw(dtype, slug).layer(9, at=None)
        for x in (layer.grad, layer.m, layer.v):
            x[::share] = 0
        yield _entry(dtype, slug, "zero-gradient zero-v theta-zero", "the smallest w is √ε", layer)
    slug = "zero-gradients"
    layer = _Draw(dtype, slug).layer(6, at=None)
    layer.grad[:] = 0
    yield _entry(dtype, slug, "zero-gradient theta-zero", "moments decay, θ still moves", layer)
    slug = "zero-v-nonzero-m"
    layer = _Draw(dtype, slug).layer(4, at=None, g=(-9, -7))
    layer.v[:] = 0
    layer.grad[:] = 0
    yield _entry(dtype, slug, "all-zero zero-v zero-gradient theta-zero", "w is √ε everywhere", layer)
    for slug, t, hp in (
        ("all-zero-first", 0, {}),
        ("all-zero-later", 77, {}),
        ("all-zero-decoupled", 7, {"weight_decay": 0.1, "lr": 0.5, "decoupled_weight_decay": True}),
    ):
        layer = _Draw(dtype, slug).layer(5, fresh=True)
        layer.grad[:] = 0
        flags = "all-zero zero-gradient zero-v" + (" decoupled-weight-decay" if hp else "")
        yield _entry(dtype, slug, flags, "m = v = g = 0", layer, t=t, **hp)


def _magnitudes(dtype: str) -> Iterator[Entry]:
    storage, compute = FORMATS[dtype], compute_format(dtype)
    least, normal = (int(math.log2(x)) for x in (storage.smallest_subnormal, storage.smallest_normal))
    deep = int(math.log2(compute.smallest_normal))
    top = min(int(math.log2(storage.largest)), int(math.log2(compute.largest)) // 2 - 3)
    for slug, t in (("subnormal-gradient", 0), ("subnormal-gradient-later", 20)):
        layer = _Draw(dtype, slug).layer(5, at=None, g=(least, normal - 1), v=(deep + 30, deep + 34), fresh=t == 0)
        yield _entry(dtype, slug, "subnormal theta-zero", "g is subnormal", layer, t=t)
    slug = "subnormal-v"
    layer = _Draw(dtype, slug).layer(5, at=None, m=(-20, -18), v=(deep - 20, deep - 1))
    layer.grad[:] = 0
    yield _entry(dtype, slug, "subnormal zero-gradient theta-zero", "v is subnormal", layer, t=20)
    low = max(deep // 2 + 20, normal)
    for t in (0, 20):
        slug = f"tiny-after-{t}"
        layer = _Draw(dtype, slug).layer(7, at=None, g=(low, low + 3), fresh=t == 0)
        eps = 2.0 ** max(2 * low - 20, deep)
        yield _entry(dtype, slug, "tiny theta-zero", "γ depends on direction alone", layer, t=t, eps=eps)
    for name, e in (("1e-5", -17), ("1e-3", -10)):
        slug = f"gradients-near-{name}"
        layer = _Draw(dtype, slug).layer(7, at=None, g=(max(e, least), e + 2), v=(2 * e, 2 * e + 4))
        yield _entry(dtype, slug, "tiny theta-zero", "as late in training", layer, t=100, eps=1e-16)
    slug = "tiny-v"
    layer = _Draw(dtype, slug).layer(7, at=None, g=(least, least), m=(deep // 2, deep // 2 + 2))
    layer = replace(layer, v=_Draw(dtype, slug).array(compute, (7,), (deep + 30, deep + 36), signed=False))
    yield _entry(dtype, slug, "tiny theta-zero", "v² underflows", layer, t=1000, eps=2.0 ** (deep + 20))
    for t in (0, 10**6):
        slug = f"huge-after-{t}"
        layer = _Draw(dtype, slug).layer(5, at=None, g=(top - 4, top - 1), fresh=t == 0)
        yield _entry(dtype, slug, "huge theta-zero", "g² is near the largest number", layer, t=t)
    slug = "huge-v"
    peak = int(math.log2(compute.largest))
    layer = _Draw(dtype, slug).layer(5, at=None, m=(peak // 2 - 6, peak // 2), v=(peak - 8, peak - 4))
    yield _entry(dtype, slug, "huge theta-zero", "v² overflows", layer, t=10**6)
    for d in (5, 33):
        slug = f"wide-range-d{d}"
        layer = _Draw(dtype, slug).layer(d, at=None, g=(max(-30, least), min(20, top)), m=(-30, -2), v=(-60, 4))
        yield _entry(dtype, slug, "wide-range theta-zero", "magnitudes over 50 binades", layer, t=30)
    for e in (4, 10):
        slug = f"theta-2^{e}"
        yield _entry(dtype, slug, "theta-large", "θ's rounding dominates", _Draw(dtype, slug).layer(5, at=e))
    for t in (1, 40):
        slug = f"cancelling-after-{t}"
        layer = _Draw(dtype, slug).layer(6, at=None, g=(0, 0))
        m = layer.grad.astype(np.float64) * -0.14  # 0.875 × 0.14 nearly cancels 0.125
        layer = replace(layer, m=m.astype(compute.numpy))
        yield _entry(dtype, slug, "cancellation theta-zero", "m is small against its terms", layer, t=t, beta1=0.875)


def _settings(dtype: str) -> Iterator[Entry]:
    def one(slug: str, flags: str, note: str, t: int = 10, d: int = 5, at: int | None = None, **hp: Any) -> Entry:
        flags = flags if at is not None else f"{flags} theta-zero"
        return _entry(dtype, slug, flags, note, _Draw(dtype, slug).layer(d, at=at, fresh=t == 0), t=t, **hp)

    for tau in (0.0, 0.25, 0.5, 0.9):
        yield one(f"tau-{tau}", "tau", f"τ = {tau}", tau=tau)
        yield one(f"tau-{tau}-matrix", "tau", f"τ = {tau}, d = 9", d=9, t=200, tau=tau)
    betas: list[tuple[str, int, Settings]] = [
        ("beta1-0", 3, {"beta1": 0.0}),
        ("beta2-0", 3, {"beta2": 0.0}),
        ("betas-0", 0, {"beta1": 0.0, "beta2": 0.0}),
        ("beta1-0.99", 12, {"beta1": 0.99}),
        ("beta1-0.9999", 1, {"beta1": 0.9999}),
        ("beta2-0.5", 2, {"beta2": 0.5}),
        ("beta2-0.99999", 40, {"beta2": 0.99999}),
        ("betas-0.3-0.6", 1, {"beta1": 0.3, "beta2": 0.6}),
    ]
    for slug, t, hp in betas:
        yield one(slug, "beta-edge", "β other than the defaults", t=t, **hp)
    for n in (0.0, 1.0, 2.0, 4.0):
        yield one(f"cos-power-{n:g}", "cos-power", f"γ is cos to the power {n:g}", cos_power=n)
        slug = f"cos-power-{n:g}-dominant"
        layer = _Draw(dtype, slug).layer(8, at=None)
        layer.v[3] = 2.0**12
        yield _entry(dtype, slug, "cos-power dominant-v theta-zero", "γ is far from 1", layer, cos_power=n)
    outside: list[tuple[str, Settings]] = [
        ("eps-outside", {}),
        ("eps-outside-large", {"eps": 0.125}),
        ("eps-outside-tau-0", {"tau": 0.0, "eps": 1e-3}),
    ]
    for slug, hp in outside:
        yield one(slug, "eps-outside", "w = √v̂ + ε", eps_inside_sqrt=False, **hp)
    for eps in (1e-2, 1.0, 100.0):
        slug = f"eps-{eps:g}"
        layer = _Draw(dtype, slug).layer(5, at=None, g=(-9, -3))
        yield _entry(dtype, slug, "eps-dominated theta-zero", f"ε = {eps:g}", layer, eps=eps, lr=0.1, tau=0.9)
    decays: list[tuple[str, int, Settings]] = [
        ("decay-small", 0, {"weight_decay": 1e-2}),
        ("decay-large", 3, {"weight_decay": 0.5, "lr": 0.1}),
        ("decay-maximize", 2, {"weight_decay": 0.3, "lr": 0.1, "maximize": True}),
    ]
    for slug, at, hp in decays:
        yield one(slug, "weight-decay", "g + λθ", at=at, **hp)
        hp["decoupled_weight_decay"] = True
        hp["lr"] = 0.25
        yield one(f"{slug}-decoupled", "decoupled-weight-decay", "(1 - ηλ)θ", at=at, **hp)
    yield one("decay-first", "weight-decay first-step", "λθ alone makes the moments", t=0, at=4, weight_decay=0.5)
    yield one("maximize", "maximize", "-g", maximize=True)
    yield one("maximize-first", "maximize first-step", "-g", t=0, maximize=True)
    yield one("maximize-decay", "maximize weight-decay", "-g + λθ", at=2, maximize=True, weight_decay=0.5, lr=0.5)
    for lr in (0.0, 3e-4, 0.7, 4.0):
        yield one(f"lr-{lr:g}", "learning-rate", f"η = {lr:g}", at=0 if lr == 0 else None, lr=lr)
    for slug, t, d in (("adam-first", 0, 5), ("adam", 25, 9), ("adam-late", 5000, 3)):
        yield one(slug, "adam tau cos-power", "as optax.adam with eps_root", t=t, d=d, tau=0.0, cos_power=0.0)


def _many(dtype: str) -> Iterator[Entry]:
    draw = _Draw(dtype, "layers")
    a, b, c = draw.layer(3, at=None), draw.layer(5, at=None, g=(-9, -7)), draw.layer(2, 2, at=None, g=(3, 4))
    yield _entry(dtype, "layers-two", "layers theta-zero", "each with its own γ", [a, b])
    yield _entry(dtype, "layers-three", "layers theta-zero", "sizes and magnitudes differ", [a, b, c])
    yield _entry(dtype, "layers-turned", "layers theta-zero", "the same in another order", [c, b, a])
    param, grad, m, v = (np.concatenate([getattr(a, x), getattr(b, x)]) for x in ("param", "grad", "m", "v"))
    joined = LayerCase(param, grad, m, v)
    yield _entry(dtype, "layers-joined", "layers theta-zero", "layers-two as one layer: other steps", joined)
    yield _entry(
        dtype, "layers-decay", "layers weight-decay", "with λ", [draw.layer(3), draw.layer(4)], weight_decay=0.3
    )
    stacks: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
        ((3, 4), (1,)),
        ((3, 4), (0,)),
        ((2, 3, 2), (1, 2)),
        ((5,), ()),
        ((4, 4), (0,)),
    ]
    for shape, axes in stacks:
        slug = f"layer-axes-{'x'.join(map(str, shape))}-{'-'.join(map(str, axes)) or 'none'}"
        layer = _Draw(dtype, slug).layer(*shape, at=None, axes=axes)
        yield _entry(dtype, slug, "layer-axes theta-zero", f"layers along axes {list(axes)}", layer)
    if dtype in ("float32", "float64"):
        twins: list[tuple[str, int, tuple[int, ...], tuple[int, ...] | None]] = [
            ("complex", 4, (4,), None),
            ("complex-first", 0, (3,), None),
            ("complex-matrix", 40, (2, 3), None),
            ("complex-axes", 4, (2, 3), (1,)),
            ("complex-zero-dim", 4, (), None),
        ]
        for slug, t, shape, own in twins:
            draw = _Draw(dtype, slug)
            layer = draw.layer(*shape, at=None, axes=own, is_complex=True, fresh=t == 0)
            flags = "complex theta-zero" + (" layer-axes" if own else "")
            yield _entry(dtype, slug, flags, "a layer of 2d reals", layer, t=t)


def _bits(dtype: str) -> Iterator[Entry]:
    """Random bit patterns: every binade is equally likely."""
    storage, compute = FORMATS[dtype], compute_format(dtype)
    least, top = int(math.log2(storage.smallest_subnormal)), int(math.log2(storage.largest)) - 2
    half = int(math.log2(compute.largest)) // 2 - 8
    for i in range(10 if storage is not compute else 6):
        slug = f"bits-{i}"
        draw = _Draw(dtype, slug)
        layer = LayerCase(
            draw.array(storage, (8,), (least, top)),
            draw.array(storage, (8,), (least, min(top, half))),
            draw.array(compute, (8,), (-30, 3)),
            draw.array(compute, (8,), (-60, 8), signed=False),
        )
        yield _entry(dtype, slug, "bit-patterns wide-range", "any binade", layer, t=7**i)


def _refusals(dtype: str) -> Iterator[Entry]:
    for name, bad in (("nan", math.nan), ("inf", math.inf), ("minus-inf", -math.inf)):
        slug = f"poison-{name}"
        draw = _Draw(dtype, slug)
        layers = [draw.layer(3), draw.layer(4), draw.layer(2)]
        layers[1].grad[2] = bad
        yield _entry(dtype, slug, "poison layers", "the second layer is NaN, the others are not", layers)
    smallest = compute_format(dtype).smallest_normal
    for name, values in (
        ("lr", (-0.1, math.nan)),
        ("beta1", (-0.1, 1.0)),
        ("beta2", (1.0, math.nan)),
        ("eps", (0.0, -1e-8, smallest / 4)),
        ("tau", (-0.5, 1.0)),
        ("weight_decay", (-0.1,)),
    ):
        for x in values:
            slug = f"reject-{name}-{x:g}"
            hp: Settings = {name: x}
            yield _entry(dtype, slug, "reject", f"{name} = {x:g}", _Draw(dtype, "reject").layer(3), **hp)


_GROUPS = (_steps, _shapes, _second_moments, _magnitudes, _settings, _many, _bits, _refusals)
