"""The vectors: the generator reproduces them, the linter accepts them, the specification passes, wrong steps fail."""

import hashlib
import json
import math
import shutil
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from setadam_conformance import vectors
from setadam_conformance.adapters.spec import NumPySpec
from setadam_conformance.cases.case import real_view
from setadam_conformance.cases.formats import FORMATS
from setadam_conformance.protocol import LayerState
from setadam_conformance.vectors import checking, files
from setadam_conformance.vectors.catalogue import FLAGS
from setadam_conformance.vectors.files import DTYPES, round_up, select_bound, short_hex
from setadam_core import Hyperparameters, spec
from setadam_core.layers import Layer

FOLDER = vectors.vectors_folder()


def all_vectors():
    return [vector for dtype in DTYPES for vector in vectors.load(FOLDER, dtype)]


# The files


@pytest.mark.parametrize("first", range(len(DTYPES)))
def test_the_generator_reproduces_every_eighth_vector(first):
    """Lines of one file; the heavy test makes all files."""
    text = (FOLDER / f"{DTYPES[first]}.json").read_text(encoding="utf-8")
    since = {v["id"]: v["since"] for v in json.loads(text)["vectors"]}
    entries = list(files.entries(DTYPES[first]))
    assert len(entries) == len(since)
    for entry in entries[first::8]:
        line = json.dumps(files.encode(entry, since), ensure_ascii=False, separators=(",", ":"))
        assert f"{line},\n" in text or f"{line}\n]" in text, entry.slug


@pytest.mark.heavy
def test_the_generator_reproduces_the_files_byte_for_byte(tmp_path):
    for dtype in DTYPES:
        path = tmp_path / f"{dtype}.json"
        data = json.loads((FOLDER / path.name).read_text(encoding="utf-8"))
        # The generator reads only the first versions of the vectors from existing files.
        path.write_text(json.dumps({"vectors": [{"id": v["id"], "since": v["since"]} for v in data["vectors"]]}))
    vectors.generate(tmp_path)
    for dtype in DTYPES:
        assert (tmp_path / f"{dtype}.json").read_bytes() == (FOLDER / f"{dtype}.json").read_bytes()


def test_the_generator_keeps_the_first_version_of_a_vector(tmp_path, monkeypatch):
    module = "setadam_conformance.vectors.files"
    monkeypatch.setattr(f"{module}.DTYPES", ("float32",))

    few = list(files.entries("float32"))[:2]
    monkeypatch.setattr(f"{module}.entries", lambda dtype: iter(few))
    vectors.generate(tmp_path)
    path = tmp_path / "float32.json"
    first = json.loads(path.read_text(encoding="utf-8"))["vectors"][0]["id"]
    path.write_text(path.read_text(encoding="utf-8").replace('"since":"0.1.0"', '"since":"0.0.9"', 1), encoding="utf-8")
    vectors.generate(tmp_path)
    since = {v["id"]: v["since"] for v in json.loads(path.read_text(encoding="utf-8"))["vectors"]}
    assert since[first] == "0.0.9"
    assert list(since.values()) == ["0.0.9", "0.1.0"]


def test_the_files_pass_the_linter_and_are_small_and_many():
    assert vectors.lint(FOLDER) == []
    assert len(all_vectors()) >= 320
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 2_000_000


def test_vectors_are_found_in_a_checkout_and_in_a_wheel(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "setadam_conformance"
    monkeypatch.setattr(checking, "__file__", str(package / "vectors" / "checking.py"))
    with pytest.raises(FileNotFoundError, match="no vectors beside or inside"):
        vectors.vectors_folder()
    shutil.copytree(FOLDER, package / "vectors" / "data")
    assert vectors.vectors_folder() == package / "vectors" / "data"
    shutil.copytree(FOLDER, tmp_path / "site-packages" / "vectors")
    assert vectors.vectors_folder() == tmp_path / "site-packages" / "vectors"


def test_ids_are_hashes_that_a_reader_of_the_readme_can_recompute():
    for dtype in DTYPES:
        for vector in json.loads((FOLDER / f"{dtype}.json").read_text(encoding="utf-8"))["vectors"]:
            text = json.dumps(vector["case"], sort_keys=True, separators=(",", ":"))
            assert vector["id"] == hashlib.sha256(text.encode()).hexdigest()[:12]


def test_stored_moments_are_exact():
    """Compared with rational arithmetic, which is independent of mpmath. A double-double holds 106 bits."""
    seen = 0
    for vector in all_vectors():
        hp = {k: Fraction(x) for k, x in vector.case.hp.items() if math.isfinite(x)}
        if hp.get("weight_decay") or vector.result == "reject":
            continue
        sign = -1 if vector.case.hp["maximize"] else 1
        for layer, out in zip(vector.case.layers, vector.out, strict=True):
            if out["param"] == "nan":
                continue
            grad = real_view(layer.grad)
            for i, (m, v, g) in enumerate(zip(*(map(float, x.ravel()) for x in (layer.m, layer.v, grad)), strict=True)):
                m, v, g = Fraction(m), Fraction(v), sign * Fraction(g)
                exact = {
                    "m": hp["beta1"] * m + (1 - hp["beta1"]) * g,
                    "v": hp["beta2"] * v + (1 - hp["beta2"]) * g**2,
                }
                for stage, value in exact.items():
                    stored = sum(Fraction(float.fromhex(out[stage][part][i])) for part in ("hi", "lo"))
                    assert abs(stored - value) <= abs(value) / 2**106 + Fraction(1, 2**1074), (vector.slug, stage)
                    seen += 1
    assert seen > 5000


def test_bounds_are_positive_and_never_narrowed_by_a_claim():
    for vector in all_vectors():
        for out in vector.out:
            for stage in out if out["param"] != "nan" else ():
                bounds = {k: [float.fromhex(x) for x in b] for k, b in out[stage]["bound"].items()}
                plain = bounds[""]
                assert all(b > 0 for b in plain)
                assert all(b >= a for bound in bounds.values() for a, b in zip(plain, bound, strict=True))


def test_some_vectors_distinguish_the_reduction_classes():
    keys = {key for v in all_vectors() for out in v.out if out["param"] != "nan" for key in out["param"]["bound"]}
    assert {"", "any", "flush", "traced"} <= keys


def test_numbers_round_up_to_few_bits_and_print_short():
    for x in (Fraction(1, 3), Fraction(1), Fraction(3, 2**1074), Fraction(1, 2**1080), Fraction(10) ** 300 / 7):
        up = round_up(x)
        assert x <= Fraction(up) <= max(x * (1 + Fraction(1, 2**11)), Fraction(2, 2**1074))
    assert round_up(Fraction(0)) == 0
    for x in (0.0, 1.0, -1.5, 16.0, 0.1, 5e-324, 1.7e308):
        assert float.fromhex(short_hex(x)) == x
        assert "0p" not in short_hex(x).replace("0x0p", "") or x == 0


def test_the_selected_bound_is_the_largest_that_is_claimed():
    bounds = {"": [1.0, 5.0], "any": [2.0, 5.0], "any flush": [3.0, 7.0]}
    assert select_bound(bounds, [], 2) == [1.0, 5.0]
    assert select_bound(bounds, ["flush"], 2) == [1.0, 5.0]
    assert select_bound(bounds, ["any", "flush", "traced"], 2) == [3.0, 7.0]


# The linter


@pytest.fixture
def few(tmp_path):
    """A folder with the first vectors of each dtype, small so that linting is cheap."""
    for name in ("schema.json", "withdrawn.json"):
        shutil.copy(FOLDER / name, tmp_path)
    for dtype in DTYPES:
        data = json.loads((FOLDER / f"{dtype}.json").read_text(encoding="utf-8"))
        data["vectors"] = data["vectors"][:3]
        data["count"] = 3
        (tmp_path / f"{dtype}.json").write_text(json.dumps(data), encoding="utf-8")
    return tmp_path


def edit(folder, change, dtype="float32"):
    path = folder / f"{dtype}.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")


def duplicate(data):
    data["vectors"].append(data["vectors"][0] | {"slug": "again"})
    data["count"] += 1


def same_slug(data):
    data["vectors"][1]["slug"] = data["vectors"][0]["slug"]


def nudge(stage, part, index=0):
    def change(data):
        column = data["vectors"][2]["out"][0][stage][part]
        x = float.fromhex(column[index])
        bound = float.fromhex(data["vectors"][2]["out"][0][stage]["bound"][""][index])
        column[index] = short_hex(x + bound / 6)

    return change


CORRUPTIONS = {
    "schema": (lambda data: data["vectors"][0].update(result="maybe"), "is not one of"),
    "unknown field": (lambda data: data["vectors"][0].update(tcId=7), "Additional properties"),
    "schema version": (lambda data: data.update(schema="setadam-vectors/2"), "was expected"),
    "decimal float": (lambda data: data["vectors"][0]["case"]["hp"].update(lr=0.001), "0.001 is a float"),
    "infinite float": (lambda data: data["vectors"][0]["case"]["hp"].update(lr=math.inf), "Infinity is a float"),
    "decimal string": (lambda data: data["vectors"][0]["case"]["hp"].update(lr="0.001"), "does not match"),
    "case edited": (lambda data: data["vectors"][0]["case"].update(t=5), "the case's id is"),
    "id edited": (lambda data: data["vectors"][0].update(id="0123456789ab"), "the case's id is"),
    "id twice": (duplicate, "occurs 2 times"),
    "slug twice": (same_slug, "slug first-step-d1-theta-zero occurs 2 times"),
    "count": (lambda data: data.update(count=4), "count is 4"),
    "flag without note": (lambda data: data["vectors"][0]["flags"].append("new-thing"), "new-thing has no note"),
    "flag missing": (lambda data: data["vectors"][0]["flags"].remove("first-step"), None),
    "m": (nudge("m", "hi"), "m of layer 0 at 0"),
    "v": (nudge("v", "hi", 1), "v of layer 0 at 1"),
    "param": (nudge("param", "hi", 1), "param of layer 0 at 1"),
    "low part": (nudge("param", "lo"), "param of layer 0 at 0"),
    "short column": (lambda data: data["vectors"][2]["out"][0]["m"]["lo"].pop(), "entries everywhere"),
    "short bound": (lambda data: data["vectors"][2]["out"][0]["param"]["bound"]["traced"].pop(), "entries everywhere"),
    "output missing": (lambda data: data["vectors"][0]["out"].pop(), "0 outputs for 1 layers"),
    "other dtype": (lambda data: data.update(dtype="float16"), "dtype is float16"),
}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_lint_reports(few, name):
    change, message = CORRUPTIONS[name]
    if name == "flag missing":
        change = lambda data: [v.update(flags=["tau"]) for v in data["vectors"]]  # noqa: E731
        message = "no vector has the flag first-step"
    before = set(vectors.lint(few))
    edit(few, change)
    new = set(vectors.lint(few)) - before
    assert any(message in problem for problem in new), new


def test_lint_reports_withdrawn_ids_missing_files_and_too_few(few):
    identity = vectors.load(few, "float32")[0].id
    (few / "withdrawn.json").write_text(json.dumps({identity: "it was wrong"}))
    (few / "float16.json").unlink()
    problems = "\n".join(vectors.lint(few))
    assert f"{identity} first-step-d1-theta-zero: the id was withdrawn: it was wrong" in problems
    assert "float16.json: [Errno 2]" in problems
    assert "9 vectors in all, fewer than 300" in problems


# The check


def test_the_specification_conforms():
    results = vectors.check(NumPySpec(), FOLDER, DTYPES)
    assert [str(result) for result in results if not result.conforms] == []
    assert len(results) == len(all_vectors())
    worst = max(max(result.ratios.values(), default=0) for result in results)
    assert (
        0.5 < worst <= 1
    )  # the rounding of θ comes close to its bound; a smaller ratio would mean that the bound is too wide


def test_options_that_a_backend_lacks_are_not_tried():
    class Plain(NumPySpec):
        capabilities = replace(NumPySpec.capabilities, options=frozenset())

    results = vectors.check(Plain(), FOLDER, ["float32"])
    assert 0 < len(results) < len(vectors.load(FOLDER, "float32"))
    assert all(result.conforms for result in results)
    asked = {result.id for result in results}
    assert not [v.slug for v in vectors.load(FOLDER, "float32") if v.case.needs and v.id in asked]
    chosen = vectors.check(Plain(), FOLDER, ["float32"], select=lambda v: "tau" in v.flags)
    assert 0 < len(chosen) < len(results)


def flush(x, fmt):
    tiny = x.real.dtype.type(FORMATS[fmt].smallest_normal)
    if x.dtype.kind == "c":
        return flush(x.real, fmt) + 1j * flush(x.imag, fmt)
    return np.where(np.abs(x) < tiny, np.zeros_like(x), x)


class Flushing(NumPySpec):
    """Reads and writes subnormals of the compute dtype as zero. float16's own subnormals are normal there."""

    def _step(self, param, grad, state, hp, axes, rounding):
        compute = str(state.m.dtype)
        state = spec.State(flush(state.m, compute), flush(state.v, compute), state.t)
        new, moved = super()._step(flush(param, compute), flush(grad, compute), state, hp, axes, rounding)
        own = str(new.real.dtype) if new.dtype.kind == "c" else str(new.dtype)
        return flush(new, own), spec.State(flush(moved.m, compute), flush(moved.v, compute), moved.t)


class ClaimsToFlush(Flushing):
    capabilities = replace(NumPySpec.capabilities, flushes_subnormals=True)


class InFloat32Throughout(NumPySpec):
    """Forms the bias corrections in the compute dtype from an array."""

    def _step(self, param, grad, state, hp, axes, rounding):
        return super()._step(param, grad, state._replace(t=np.asarray(state.t, np.int64)), hp, axes, rounding)


class ClaimsTracing(InFloat32Throughout):
    capabilities = replace(NumPySpec.capabilities, traced_t=True)


@pytest.mark.parametrize("backend", [ClaimsToFlush, ClaimsTracing])
def test_what_a_claim_allows_conforms(backend):
    results = vectors.check(backend(), FOLDER, DTYPES)
    assert [str(result) for result in results if not result.conforms] == []


def test_flushing_without_the_claim_is_noticed():
    failed = [r for r in vectors.check(Flushing(), FOLDER, DTYPES) if not r.conforms]
    assert {result.dtype for result in failed} == set(DTYPES)


def test_sequential_sums_conform_with_their_claim(monkeypatch):
    """The longest possible chain of additions. At d = 129 it need not fail without the claim."""

    class OneByOne(NumPySpec):
        capabilities = replace(NumPySpec.capabilities, reduction="any")

    def total(layer, x):
        if layer.axes != tuple(range(x.ndim)):
            return np.sum(x, axis=layer.axes, keepdims=True) if layer.axes else x
        return np.cumsum(x.ravel())[-1:].reshape((1,) * x.ndim) if x.ndim else x

    monkeypatch.setattr(Layer, "sum", total)
    results = vectors.check(OneByOne(), FOLDER, DTYPES)
    assert [str(result) for result in results if not result.conforms] == []


def changed(**changes):
    """A backend that uses other hyperparameters than the given ones."""

    class Changed(NumPySpec):
        def _step(self, param, grad, state, hp, axes, rounding):
            values = {**hp.__dict__, **{k: f(getattr(hp, k)) for k, f in changes.items()}}
            return super()._step(param, grad, state, Hyperparameters(**values), axes, rounding)

    return Changed


def patched(name, replacement):
    """A backend with one function of the specification replaced by a wrong one."""

    class Patched(NumPySpec):
        def _step(self, *args):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(spec, name, lambda *own: replacement(getattr_(name), *own))
                return super()._step(*args)

    originals = {name: getattr(spec, name)}
    getattr_ = originals.__getitem__
    return Patched


def after(change):
    """A backend whose result is changed by `change(param, grad, new, state)`."""

    class Spoiled(NumPySpec):
        def _step(self, param, grad, state, hp, axes, rounding):
            new, moved = super()._step(param, grad, state, hp, axes, rounding)
            return change(param, grad, new, moved)

    return Spoiled


def before(change):
    """A backend that changes its gradients first."""

    class Early(NumPySpec):
        def _step(self, param, grad, state, hp, axes, rounding):
            return super()._step(param, np.asarray(change(grad)), state, hp, axes, rounding)

    return Early


def naive_gamma(original, v, layer, power, guard=0.0):
    s1, s2 = layer.sum(v), layer.sum(v * v)
    return np.minimum(s1 * s1 / (layer.size * (s2 + v.dtype.type(guard))), 1)


def without_last(original, v, layer, power):
    if v.ndim != 1 or v.size < 65:
        return original(v, layer, power)
    return original(v[:-1], layer._replace(size=v.size - 1), power)


def second_smallest(original, w, w_min, tau):
    above = w[w > w_min] if w.ndim else w[()]
    return original(w, np.min(above) if np.size(above) else w_min, tau)


def at_one_place(original, w, w_min, tau):
    shifted = np.array(w)
    flat = shifted.reshape(-1)
    if flat.size == 0:
        return original(w, w_min, tau)
    lowest = flat == flat.min()
    lowest[np.argmin(flat)] = False
    return np.where(lowest.reshape(w.shape), w, original(w, w_min, tau))


def unfinished_block(param, grad, new, state):
    new = new.copy()
    flat, tail = new.reshape(-1), new.size % 8
    flat[new.size - tail :] = param.reshape(-1)[new.size - tail :]
    return new, state


def transposed(param, grad, new, state):
    if new.ndim == 2 and new.shape[0] == new.shape[1]:
        new = (param - (param - new).T).astype(new.dtype)
    return new, state


def nudged(param, grad, new, state):
    return (new * new.dtype.type(1 + 4 * FORMATS[str(new.dtype)].u)).astype(new.dtype), state


def narrow_moments(param, grad, new, state):
    narrow = {"float64": np.float32, "float32": np.float16}.get(str(param.dtype), param.dtype)
    return new, state._replace(m=np.asarray(state.m.astype(narrow).astype(state.m.dtype)))


def refuses_nothing(param, grad, new, state):
    if new.size == 0:
        raise ValueError("zero-size array to reduction operation minimum which has no identity")
    return new, state


class Concatenated(NumPySpec):
    """All layers as one."""

    def step(self, params, grads, states, hp, layer_axes):
        if len(params) == 1:
            return super().step(params, grads, states, hp, layer_axes)
        flat = lambda xs: np.concatenate([np.ravel(x) for x in xs])  # noqa: E731
        state = LayerState(flat([s.m for s in states]), flat([s.v for s in states]), states[0].t)
        (param,), (state,) = super().step([flat(params)], [flat(grads)], [state], hp, [None])
        at = np.cumsum([p.size for p in params])[:-1]
        parts = [np.split(x, at) for x in (param, state.m, state.v)]
        p, m, v = ([x.reshape(q.shape) for x, q in zip(part, params, strict=True)] for part in parts)
        return p, [LayerState(a, b, state.t) for a, b in zip(m, v, strict=True)]


class WholeArray(NumPySpec):
    def _step(self, param, grad, state, hp, axes, rounding):
        return super()._step(param, grad, state, hp, None)


class TwoLayersOfReals(NumPySpec):
    def _step(self, param, grad, state, hp, axes, rounding):
        if param.dtype.kind != "c":
            return super()._step(param, grad, state, hp, axes, rounding)
        parts = [
            super(TwoLayersOfReals, self)._step(
                np.asarray(x), np.asarray(g), spec.State(state.m[..., i], state.v[..., i], state.t), hp, axes
            )
            for i, (x, g) in enumerate(((param.real, grad.real), (param.imag, grad.imag)))
        ]
        (real, a), (imag, b) = parts
        m, v = (np.stack([x, y], axis=-1) for x, y in ((a.m, b.m), (a.v, b.v)))
        return (real + 1j * imag).astype(param.dtype), spec.State(m, v, a.t)


class Unchecked(NumPySpec):
    def step(self, params, grads, states, hp, layer_axes):
        try:
            Hyperparameters(**hp).check_representable("float32", 2.0**-126, 3e38)
        except ValueError:
            return list(params), [LayerState(s.m, s.v, s.t + 1) for s in states]
        return super().step(params, grads, states, hp, layer_axes)


def flat_zero_dim(param, grad, new, state):
    return (new.reshape(1), state) if new.ndim == 0 else (new, state)


def always(value):
    return lambda given: value


def gamma(change):
    """A backend whose γ is changed by `change(gamma, d)`."""
    return patched("down_scaling", lambda original, v, layer, n: change(original(v, layer, n), layer.size))


def scaled_update(dtype):
    """The update is off by at least 64 roundings of the parameter's dtype: invisible at θ = 1, large at θ = 0."""
    return changed(lr=lambda lr: lr * (1 + max(64 * FORMATS[dtype].u, 2**-20)))


# For each flag, a fault that its note names.
FAULTS = {
    "first-step": patched("bias_correction", lambda original, beta, t, layer: 1.0),
    "large-t": patched("bias_correction", lambda original, beta, t, layer: original(beta, t % 65536, layer) or 1e-30),
    "bias-correction": patched("bias_correction", lambda original, beta, t, layer: original(beta, t + 1, layer)),
    "constant-v": gamma(lambda gamma, d: gamma * d / (d + 1)),
    "all-zero": patched("down_scaling", naive_gamma),
    "one-coordinate": gamma(lambda gamma, d: gamma * d / max(d - 1, 0.5)),
    "sizes": after(unfinished_block),
    "long-sum": patched("down_scaling", without_last),
    "dominant-v": gamma(lambda gamma, d: np.maximum(gamma, gamma.dtype.type(0.6))),
    "subnormal": patched("down_scaling", naive_gamma),
    "tiny": patched("down_scaling", lambda *args: naive_gamma(*args, guard=1e-20)),
    "huge": before(lambda g: np.clip(g, -1000, 1000)),
    "wide-range": before(lambda g: np.clip(g, -100, 100)),
    "theta-large": after(nudged),
    "zero-gradient": after(lambda param, grad, new, state: (np.where(grad == 0, param, new), state)),
    "zero-v": patched("down_translate", second_smallest),
    "weight-decay": changed(weight_decay=always(0.0)),
    "decoupled-weight-decay": changed(decoupled_weight_decay=always(False)),
    "maximize": changed(maximize=always(False)),
    "tau": changed(tau=always(0.5)),
    "beta-edge": changed(beta1=always(0.9), beta2=always(0.999)),
    "cos-power": changed(cos_power=always(2.0)),
    "eps-outside": changed(eps_inside_sqrt=always(True)),
    "eps-dominated": changed(eps=lambda eps: eps**2),
    "tied-minima": patched("down_translate", at_one_place),
    "layers": Concatenated,
    "layer-axes": WholeArray,
    "complex": TwoLayersOfReals,
    "square": after(transposed),
    "empty": after(refuses_nothing),
    "zero-dim": after(flat_zero_dim),
    "bit-patterns": after(narrow_moments),
    "adam": changed(tau=always(0.5)),
    "cancellation": after(narrow_moments),
    "learning-rate": changed(lr=always(1e-3)),
    "poison": before(lambda g: np.where(np.isfinite(g.astype(np.complex128)), g, np.zeros_like(g))),
    "reject": Unchecked,
}


def test_each_flag_has_a_fault():
    assert set(FAULTS) | {"theta-zero"} == set(FLAGS)


@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_vector_with_the_flag_catches_the_flags_fault(flag, dtype):
    if flag == "complex" and dtype not in ("float64", "float32"):
        pytest.skip("there is no complex dtype of this width")
    fault = scaled_update(dtype) if flag == "theta-zero" else FAULTS[flag]
    results = vectors.check(fault(), FOLDER, [dtype], select=lambda vector: flag in vector.flags)
    assert results
    assert not all(result.conforms for result in results)


class DoesNothing(NumPySpec):
    def step(self, params, grads, states, hp, layer_axes):
        return list(params), [LayerState(s.m, s.v, s.t + 1) for s in states]


class Raises(NumPySpec):
    def step(self, params, grads, states, hp, layer_axes):
        raise RuntimeError("out of order")


@pytest.mark.parametrize(
    "backend",
    [DoesNothing, Raises, after(lambda param, grad, new, state: (new * np.nan, state))],
    ids=["no-op", "always raises", "all NaN"],
)
def test_a_useless_backend_fails_nearly_everywhere(backend):
    results = vectors.check(backend(), FOLDER, ["float32"])
    failed = [result for result in results if not result.conforms]
    assert len(failed) > 0.8 * len(results)
    assert all(result.problem in str(result) and result.id in str(result) for result in failed)


def test_an_infinite_result_fails():
    huge = after(lambda param, grad, new, state: (np.full_like(new, 1e308), state))
    results = vectors.check(huge(), FOLDER, ["float64"], select=lambda vector: "all-zero" in vector.flags)
    assert results
    assert all(result.ratios["param"] > 1e300 for result in results)


def test_a_wrong_result_is_reported_with_its_stage_and_value():
    (result,) = vectors.check(
        changed(lr=always(1.0))(), FOLDER, ["float32"], select=lambda vector: vector.slug == "tau-0.5"
    )
    assert result.problem.startswith("param of layer 0 is ")
    assert "the formula gives" in result.problem
    assert result.ratios["m"] <= 1 < result.ratios["param"]
