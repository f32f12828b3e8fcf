"""The compiled CPU kernel: every size class and dtype by the kit's judge, and the same bits for any threads."""

import os
import subprocess
import sys
import threading

import ml_dtypes
import numpy as np
import pytest

from setadam_conformance.cases.case import Case, LayerCase
from setadam_conformance.judging.judge import judge
from setadam_conformance.protocol import Capabilities, LayerState
from setadam_core import Hyperparameters
from setadam_core.parts import Parts, combine
from setadam_numpy import _threads, kernel

if kernel.why_not() is not None:
    pytest.skip(str(kernel.why_not()), allow_module_level=True)

# Below, at and above the sizes of a leaf, a chunk, a block, and what one thread does alone.
SIZES = (0, 1, 63, 64, 65, 2047, 2049, 32767, 32769, 140_001)
CLAIMS = Capabilities(dtypes=("float64", "float32", "bfloat16", "float16"))


def arrays(dtype, sizes=SIZES, scale=1.0, seed=0):
    rng = np.random.default_rng(seed)
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    compute = np.float64 if dtype == "float64" else np.float32
    params, grads, ms = ([rng.standard_normal(n) for n in sizes] for _ in range(3))
    vs = [(scale * rng.standard_normal(n)) ** 2 for n in sizes]
    return (
        [x.astype(kind) for x in params],
        [(scale * x).astype(kind) for x in grads],
        [(scale * x).astype(compute) for x in ms],
        [x.astype(compute) for x in vs],
    )


def copied(columns):
    return [[x.copy() for x in column] for column in columns]


def stepped(columns, hp, threads=None):
    new = copied(columns)
    kernel.step_layers(*new, 7, hp, threads=threads)
    return new


def same_bits(one, other):
    return all(a.tobytes() == b.tobytes() for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


@pytest.mark.parametrize(
    ("dtype", "scale", "hp"),
    [
        ("float32", 1.0, {}),
        ("float32", 1e-17, {"eps": 1e-30}),
        ("float32", 1e12, {"weight_decay": 0.1, "maximize": True}),
        ("float32", 1.0, {"cos_power": 4.0, "eps_inside_sqrt": False, "beta1": 0.0, "beta2": 0.0}),
        ("float64", 1.0, {"weight_decay": 0.1, "decoupled_weight_decay": True}),
        ("float64", 1e-150, {"eps": 1e-300}),
        ("float64", 1e140, {}),
        ("bfloat16", 1.0, {}),
        ("float16", 0.1, {"tau": 0.9}),
    ],
)
def test_the_judge_and_threads(dtype, scale, hp):
    if reason := kernel.why_not(dtype):
        pytest.skip(reason)
    columns = arrays(dtype, scale=scale)
    one = stepped(columns, Hyperparameters(**hp), threads=1)
    for threads in (2, 3, 7):
        assert same_bits(one, stepped(columns, Hyperparameters(**hp), threads=threads))
    assert same_bits(columns[1:2], one[1:2])  # gradients are read
    layers = tuple(LayerCase(*layer) for layer in zip(*columns, strict=True))
    case = Case(dtype, layers, 6).with_hp(**hp)
    verdict = judge(case, one[0], [LayerState(m, v, 7) for m, v in zip(*one[2:], strict=True)], CLAIMS)
    assert verdict.conforms, (verdict.parted_at, verdict.parted_layer, verdict.ratio)
    assert verdict.scores["param"].judged > 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("size", [70, 140_001])
def test_nan_poisons_its_own_layer_alone(bad, size):
    columns = arrays("float32", (size, size, size))
    expected = stepped(columns, Hyperparameters())
    columns[1][1][size // 2] = bad
    new = stepped(columns, Hyperparameters())
    assert np.all(np.isnan(new[0][1]))
    for i in (0, 2):
        assert new[0][i].tobytes() == expected[0][i].tobytes()


def test_halves_make_a_step_and_parts_a_layer():
    columns = arrays("float32", (5, 0, 140_001))
    hp = Hyperparameters(weight_decay=0.1)
    whole = stepped(columns, hp)
    params, grads, ms, vs = copied(columns)
    layers = kernel.Layers.of_arrays(params, grads, ms, vs)
    parts = kernel.moments(layers, hp)
    assert parts.high.shape == (3,)
    assert same_bits(columns[:1], [params])  # not yet
    gammas, lows = combine(Parts(*(x[None] for x in parts)), np.array([5, 1, 140_001]), 2)
    kernel.descend(layers, 7, hp, gammas, lows)
    assert same_bits(whole, [params, grads, ms, vs])

    # Two shards of the last layer, of which each process sees one: γ as of the whole to rounding.
    shards = [np.split(column[2], [50_000]) for column in copied(columns)]
    seen = kernel.moments(kernel.Layers.of_arrays(*shards), hp)
    gamma, low = combine(seen, 140_001, 2)
    assert low == lows[2]
    assert gamma == pytest.approx(gammas[2], rel=1e-12)


def test_slices_are_layers():
    columns = arrays("bfloat16", (24, 6))
    new = copied(columns)
    kernel.step_layers(*new, [7, 7], Hyperparameters(), slices=[4, 3])
    cut = [[part for x, n in zip(column, (4, 3), strict=True) for part in np.split(x, n)] for column in columns]
    expected = stepped(cut, Hyperparameters())
    assert same_bits([[np.concatenate(x[:4]), np.concatenate(x[4:])] for x in expected], new)
    assert kernel.contiguous_slices((4, 3, 2), (1, 2)) == 4
    assert kernel.contiguous_slices((4, 3, 2), None) == 1
    assert kernel.contiguous_slices((4, 3, 2), ()) == 24
    assert kernel.contiguous_slices((4, 3, 2), (0, 1)) is None


def test_bfloat16_rounds_to_nearest_even():
    """η m / w̃ = 1 with m = c, so that θ is -c rounded: every tie, and all that is a bit off it."""
    c = np.array([1 + k * 2.0**-8 + j * 2.0**-23 for k in range(64) for j in (-1, 0, 1)], np.float32)
    theta, g = np.zeros(c.size, ml_dtypes.bfloat16), np.zeros(c.size, ml_dtypes.bfloat16)
    hp = Hyperparameters(lr=2.0**-7, beta1=0.0, beta2=0.0, eps=1.0, tau=0.0, weight_decay=0.0)
    v = np.zeros(c.size, np.float32)
    kernel.descend(kernel.Layers.of_arrays([theta], [g], [c], [v], "bfloat16"), 1, hp, np.ones(1), np.zeros(1))
    assert theta.tobytes() == (-(c * np.float32(2.0**-7))).astype(ml_dtypes.bfloat16).tobytes()


def test_two_threads_of_python_at_once():
    columns = arrays("float32")
    expected, results = stepped(columns, Hyperparameters()), {}
    work = [threading.Thread(target=lambda i=i: results.update({i: stepped(columns, Hyperparameters())})) for i in "ab"]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert same_bits(expected, results["a"])
    assert same_bits(expected, results["b"])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_has_threads_of_its_own():
    script = """
import os, numpy as np
from setadam_core import Hyperparameters
from setadam_numpy import kernel
def step():
    x = [[np.ones(400_000, np.float32)] for _ in range(4)]
    kernel.step_layers(*x, 1, Hyperparameters(), threads=2)
    return x[0][0].tobytes()
before = step()
child = os.fork()
if child == 0:
    os._exit(0 if step() == before else 3)
assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, timeout=120)


def test_threads_that_are_granted(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3,1")
    assert _threads.available() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    assert _threads.available() >= 1


def test_an_error_in_the_work_reaches_the_caller():
    def work():
        raise ValueError("from the work")

    with pytest.raises(ValueError, match="from the work"):
        _threads.together(2, work)


def test_no_directory_for_the_cache():
    """Numba finds no place to write to: the kernel compiles all the same, for this process."""
    script = """
from numba.core import caching
caching.CacheImpl._locator_classes = []
from setadam_numpy import _compiled, kernel
assert kernel.why_not() is None
assert type(_compiled.run._cache).__name__ == "NullCache"
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_what_is_missing_is_named(monkeypatch):
    assert "got int8" in kernel.why_not("int8")
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, "setadam_numpy._compiled", raising=False)
    monkeypatch.delattr("setadam_numpy._compiled", raising=False)
    kernel.why_not.cache_clear()
    try:
        assert 'Numba: pip install "numba>=' in kernel.why_not()
    finally:
        kernel.why_not.cache_clear()
