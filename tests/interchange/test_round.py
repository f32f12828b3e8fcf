"""Train in one framework and continue in another: every pair that is installed, each step judged by the oracle."""

import importlib
from itertools import permutations

import ml_dtypes
import numpy as np
import pytest

from setadam_conformance.cases.case import DEFAULTS, Case, LayerCase
from setadam_conformance.judging.judge import judge
from setadam_conformance.protocol import LayerState
from setadam_core.interchange import unpack

SHAPES = {"layers.0.bias": (4,), "layers.0.weight": (3, 4), "scale": ()}
HP = {"lr": 0.05, "tau": 0.25, "eps": 1e-6}


def kind(dtype):
    return np.dtype(getattr(ml_dtypes, dtype, dtype))


def random(seed, dtype):
    rng = np.random.default_rng(seed)
    width = 2 if dtype == "complex64" else 1
    drawn = {k: rng.standard_normal((*shape, width)).astype(np.float32) for k, shape in SHAPES.items()}
    if width == 2:
        return {k: x.view(np.complex64)[..., 0].copy() for k, x in drawn.items()}
    return {k: np.asarray(x[..., 0]).astype(kind(dtype)) for k, x in drawn.items()}


def nested(flat):
    layer = {"bias": flat["layers.0.bias"], "weight": flat["layers.0.weight"]}
    return {"layers": [layer], "scale": flat["scale"]}


class InNumPy:
    adapter = "setadam_numpy.conformance:NumPyPlain"
    dtypes = ("float32", "float64", "float16", "bfloat16", "complex64")

    def __init__(self, params, form):
        import setadam_numpy

        self.params = {k: self.array(p) for k, p in params.items()}
        self.optimizer = setadam_numpy.SETAdam(nested(self.params), **HP)
        if form is not None:
            self.optimizer.load_state_dict(form)

    def array(self, x):
        return x.copy()

    def step(self, grads):
        self.optimizer.step(nested({k: self.array(g) for k, g in grads.items()}))

    def form(self):
        return self.optimizer.state_dict()

    def read(self):
        return {k: np.asarray(p) for k, p in self.params.items()}


class InCuPy(InNumPy):
    adapter = "setadam_cupy.conformance:CuPyFused"
    dtypes = ("float32", "float64", "float16", "complex64")

    def __init__(self, params, form):
        import cupy

        import setadam_cupy

        self.xp = cupy
        self.params = {k: self.array(p) for k, p in params.items()}
        self.optimizer = setadam_cupy.SETAdam(nested(self.params), **HP)
        if form is not None:
            self.optimizer.load_state_dict(form)

    def array(self, x):
        return self.xp.array(x)

    def read(self):
        return {k: self.xp.asnumpy(p) for k, p in self.params.items()}


class InTorch:
    adapter = "setadam_torch.conformance:TorchDefault"
    dtypes = ("float32", "float64", "float16", "bfloat16", "complex64")

    def __init__(self, params, form):
        import setadam_torch
        from setadam_torch.conformance import TorchDefault

        self.bits = TorchDefault()
        self.params = {k: self.bits.from_numpy(p) for k, p in params.items()}
        self.optimizer = setadam_torch.SETAdam(list(self.params.items()), **HP)
        if form is not None:
            setadam_torch.load_neutral(self.optimizer, form)

    def step(self, grads):
        for k, p in self.params.items():
            p.grad = self.bits.from_numpy(grads[k])
        self.optimizer.step()

    def form(self):
        import setadam_torch

        return setadam_torch.to_neutral(self.optimizer)

    def read(self):
        return {k: self.bits.to_numpy(p) for k, p in self.params.items()}


class InJAX:
    adapter = "setadam_jax.conformance:JittedJAX"
    dtypes = ("float32", "float16", "bfloat16", "complex64")

    def __init__(self, params, form):
        import jax
        import optax

        import setadam_jax

        self.params = nested({k: jax.numpy.asarray(p) for k, p in params.items()})
        names = {"learning_rate" if k == "lr" else k: x for k, x in HP.items()}
        self.optimizer = optax.chain(optax.identity(), setadam_jax.set_adam(**names))
        self.state = self.optimizer.init(self.params)
        if form is not None:
            self.state = setadam_jax.load_neutral(self.state, form)
        self.update = jax.jit(self.optimizer.update)

    def step(self, grads):
        import optax

        updates, self.state = self.update(nested(grads), self.state, self.params)
        self.params = optax.apply_updates(self.params, updates)

    def form(self):
        import setadam_jax

        return setadam_jax.to_neutral(self.state)

    def read(self):
        layer = self.params["layers"][0]
        flat = {"layers.0.bias": layer["bias"], "layers.0.weight": layer["weight"], "scale": self.params["scale"]}
        return {k: np.asarray(x) for k, x in flat.items()}


FRAMEWORKS = {"numpy": InNumPy, "cupy": InCuPy, "torch": InTorch, "jax": InJAX}


@pytest.fixture
def framework(request):
    """The class by its framework's name. Skips if the framework is not installed."""

    def get(name):
        if name == "cupy":
            request.getfixturevalue("cupy")
        elif name != "numpy":
            pytest.importorskip(name)
        return FRAMEWORKS[name]

    return get


def judged_steps(run, count, seed, dtype):
    """Take steps, each from the run's own bits, and each within the bound."""
    module, _, name = run.adapter.partition(":")
    claims = getattr(importlib.import_module(module), name).capabilities
    for i in range(count):
        params, grads, (states, _) = run.read(), random(seed + i, dtype), unpack(run.form())
        before = {k: x.copy() for k, x in params.items()}
        run.step(grads)
        after, (new, _) = run.read(), unpack(run.form())
        layers = tuple(LayerCase(before[k], grads[k], states[k].m, states[k].v) for k in SHAPES)
        real = "float32" if dtype == "complex64" else dtype
        case = Case(real, layers, states["scale"].t, {**DEFAULTS, **HP})
        verdict = judge(case, [after[k] for k in SHAPES], [LayerState(*new[k]) for k in SHAPES], claims)
        assert verdict.conforms, (run.adapter, i, verdict)
        assert all(new[k].t == states[k].t + 1 for k in SHAPES)


def same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert a[key].dtype == b[key].dtype
        assert a[key].tobytes() == b[key].tobytes(), key


def moments(form):
    return {key: x for key, x in form.items() if not key.startswith("param_groups/")}


# All pairs in float32; the dtypes that need care in their conversion, to and from each by way of NumPy.
PAIRS = [(a, b, "float32") for a, b in permutations(FRAMEWORKS, 2)] + [
    (*pair, dtype)
    for name, run in FRAMEWORKS.items()
    for dtype in ("complex64", "bfloat16")
    for pair in (("numpy", name), (name, "numpy"))
    if name != "numpy" and dtype in run.dtypes
]


@pytest.mark.parametrize(("first", "second", "dtype"), PAIRS)
def test_going_on_elsewhere(framework, first, second, dtype):
    one, two = framework(first), framework(second)
    run = one(random(0, dtype), None)
    judged_steps(run, 2, 10, dtype)
    other = two(run.read(), run.form())
    same(moments(other.form()), moments(run.form()))
    judged_steps(other, 2, 20, dtype)
    assert other.form()["scale/step"] == 4


def test_once_round(framework):
    """Through all installed frameworks and back, as one trajectory without a loss."""
    run = InNumPy(random(0, "float32"), None)
    taken = 0
    for name in ("jax", "torch", "cupy", "numpy"):
        judged_steps(run, 2, 10 * taken, "float32")
        taken += 2
        try:
            run = framework(name)(run.read(), run.form())
        except pytest.skip.Exception:
            continue
        assert run.form()["scale/step"] == taken
