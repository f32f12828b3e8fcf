"""Every error path of a step: the message, and that nothing was computed before it."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from setadam_core import Hyperparameters, State, init, step, trace
from setadam_core.layers import check_layer, check_layer_axes
from setadam_core.show.operations import stepsizes_by_operation
from setadam_core.show.statistics import layer_statistics

HP = Hyperparameters()
FLOATS = "float16, bfloat16, float32, float64, complex64, complex128"


class Untouchable(np.ndarray):
    """A NumPy array whose attributes can be read, but which cannot be computed with."""

    def __array_ufunc__(self, ufunc: Any, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError(f"{ufunc.__name__} was computed")

    def __array_function__(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError(f"{function.__name__} was called")


@pytest.fixture
def untouchables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise they would be refused for being a subclass."""
    monkeypatch.setattr("setadam_core.plain.check_plain", lambda *args: None)


def untouchable(shape: tuple[int, ...] = (2, 3), dtype: str = "float32") -> Any:
    return np.ones(shape, dtype).view(Untouchable)


def arguments(**changes: Any) -> dict[str, Any]:
    """The arguments of a step of a (2, 3) float32 layer, with some changed."""
    x = untouchable()
    m, v, t = (changes.pop(name, x) for name in ("m", "v", "t"))
    t = 0 if t is x else t
    return {"param": x, "grad": x, "state": State(m, v, t), "hp": HP, **changes}


WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "hp": ({"hp": {"lr": 0.1}}, TypeError, "hp must be a Hyperparameters, got dict"),
    "kinds": (
        {"grad": [1.0], "m": 3},
        TypeError,
        "param, grad and state must be arrays of one namespace, "
        "got param: Untouchable, grad: list, state.m: int, state.v: Untouchable",
    ),
    "integer": (
        {"param": untouchable(dtype="int64")},
        TypeError,
        f"param must have one of the dtypes {FLOATS}, got int64",
    ),
    "bool": ({"param": untouchable(dtype="bool")}, TypeError, f"param must have one of the dtypes {FLOATS}, got bool"),
    "grad-shape": (
        {"grad": untouchable((3, 2))},
        ValueError,
        "grad must have shape (2, 3) for this param, got (3, 2)",
    ),
    "grad-broadcasts": (
        {"grad": untouchable(())},
        ValueError,
        "grad must have shape (2, 3) for this param, got ()",
    ),
    "grad-dtype": (
        {"grad": untouchable(dtype="float64")},
        TypeError,
        "grad must have dtype float32 for this param, got float64",
    ),
    "m-of-another-layer": (
        {"m": untouchable((2, 3, 1))},
        ValueError,
        "state.m must have shape (2, 3) for this param, got (2, 3, 1)",
    ),
    "m-dtype": (
        {"m": untouchable(dtype="float64")},
        TypeError,
        "state.m must have dtype float32 for this param, got float64",
    ),
    "v-of-another-layer": (
        {"v": untouchable((6,))},
        ValueError,
        "state.v must have shape (2, 3) for this param, got (6,)",
    ),
    "v-dtype": (
        {"v": untouchable(dtype="float16")},
        TypeError,
        "state.v must have dtype float32 for this param, got float16",
    ),
    "half-with-half-state": (
        {name: untouchable(dtype="float16") for name in ("param", "grad", "m", "v")},
        TypeError,
        "state.m must have dtype float32 for this param, got float16",
    ),
    "complex-with-complex-state": (
        {name: untouchable(dtype="complex64") for name in ("param", "grad", "m", "v")},
        ValueError,
        "state.m must have shape (2, 3, 2) for this param, got (2, 3)",
    ),
    "t-float": ({"t": 1.0}, TypeError, "state.t must be an int or a 0-d array, got 1.0"),
    "t-bool": ({"t": True}, TypeError, "state.t must be an int or a 0-d array, got True"),
    "t-none": ({"t": None}, TypeError, "state.t must be an int or a 0-d array, got None"),
    "t-vector": ({"t": np.ones(1)}, TypeError, "state.t must be an int or a 0-d array, got array([1.])"),
    "t-negative": ({"t": -1}, ValueError, "state.t must be ≥ 0, got -1"),
    "eps-underflows": (
        {"hp": Hyperparameters(eps=1e-38)},
        ValueError,
        "eps must be at least 1.175e-38, the smallest normal number of float32, "
        "in which the step is computed, got 1e-38: it would underflow",
    ),
    "lr-overflows": (
        {"hp": Hyperparameters(lr=1e39)},
        ValueError,
        "lr must be at most 3.403e+38, the largest number of float32, in which the step is computed, got 1e+39",
    ),
    "eps-overflows": (
        {"hp": Hyperparameters(eps=1e39)},
        ValueError,
        "eps must be at most 3.403e+38, the largest number of float32, in which the step is computed, got 1e+39",
    ),
    "decay-overflows": (
        {"hp": Hyperparameters(weight_decay=1e39)},
        ValueError,
        "weight_decay must be at most 3.403e+38, the largest number of float32, "
        "in which the step is computed, got 1e+39",
    ),
    "axes": (
        {"layer_axes": (0, 2)},
        ValueError,
        "layer_axes must be None or distinct axes of an array with 2 axes, got (0, 2)",
    ),
}


@pytest.mark.usefixtures("untouchables")
@pytest.mark.parametrize("function", [step, trace, stepsizes_by_operation])
@pytest.mark.parametrize(("changes", "kind", "message"), WRONG.values(), ids=WRONG)
def test_error_before_anything_is_computed(function: Any, changes: Any, kind: Any, message: str) -> None:
    with pytest.raises(kind) as error:
        function(**arguments(**changes))
    assert str(error.value) == message


@pytest.mark.usefixtures("untouchables")
def test_untouchable_arrays_notice_a_computation() -> None:
    with pytest.raises(AssertionError, match="was c"):
        step(**arguments())


@pytest.mark.parametrize("dtype", ["int32", "bool"])
def test_init_of_integers(dtype: str) -> None:
    with pytest.raises(TypeError) as error:
        init(np.ones(3, dtype))
    assert str(error.value) == f"param must have one of the dtypes {FLOATS}, got {dtype}"


@pytest.mark.parametrize(
    "axes", [(0, 0), (0, -3), (3,), (-4,), 1, "01", (1.0,), (True,), {0, 1}, np.array([0])], ids=repr
)
def test_layer_axes(axes: Any) -> None:
    with pytest.raises(ValueError) as error:
        check_layer_axes(axes, 3)
    expected = f"layer_axes must be None or distinct axes of an array with 3 axes, got {axes!r}"
    assert str(error.value) == expected


def test_layer_axes_are_sorted_and_counted_from_the_front() -> None:
    assert check_layer_axes(None, 3) == (0, 1, 2)
    assert check_layer_axes([-1, 0], 3) == (0, 2)
    assert check_layer_axes((), 3) == ()
    assert check_layer_axes(None, 0) == ()


def test_error_under_each_namespace(ns: Any) -> None:
    """Shape, dtype and ε are known without values, so the tracers of a compiler are checked too."""
    x, wide = np.ones((2, 3), np.float32), np.ones((2, 3))
    short, i, hp = np.ones(3, np.float32), np.ones((2, 3), np.int32), Hyperparameters(eps=1e-39)
    with pytest.raises(ValueError, match=r"^grad must have shape \(2, 3\) for this param, got \(3,\)"):
        ns.step(ns.array(x), ns.array(short), ns.state(x, x, 0), HP)
    with pytest.raises(TypeError, match=r"^state\.v must have dtype float32 for this param, got float64"):
        ns.step(ns.array(x), ns.array(x), ns.state(x, wide, 0), HP)
    with pytest.raises(TypeError, match=r"^param must have one of the dtypes .*, got int32"):
        ns.step(ns.array(i), ns.array(i), ns.state(x, x, 0), HP)
    with pytest.raises(ValueError, match=r"^eps must be at least 1\.175e-38, .* got 1e-39: it would underflow"):
        ns.step(ns.array(x), ns.array(x), ns.state(x, x, 0), hp)


def test_eps_that_underflows_in_half_is_good_in_its_compute_dtype(numpy_ns: Any) -> None:
    x = np.ones(3, np.float16)  # 1e-8 is 0 in float16, but the step is computed in float32
    assert np.float16(HP.eps) == 0
    param, _ = step(x, np.zeros_like(x), init(x), HP)
    np.testing.assert_array_equal(param, x)
    with pytest.raises(
        ValueError, match=r"smallest normal number of float32, in which the step is computed, got 1e-39"
    ):
        step(x, x, init(x), Hyperparameters(eps=1e-39))


def test_arrays_of_two_namespaces() -> None:
    xp = pytest.importorskip("array_api_strict")
    x, y = np.ones(3), xp.ones(3)
    with pytest.raises(TypeError, match=r"arrays of one namespace, got param: ndarray, grad: Array, state\.m: nd"):
        step(x, y, init(x), HP)


def test_devices_of_array_api_strict() -> None:
    xp = pytest.importorskip("array_api_strict")
    here, there = xp.ones(3), xp.ones(3, device=xp.Device("device1"))
    for name, grad, state in (("grad", there, init(here)), ("state.m", here, init(there))):
        with pytest.raises(ValueError) as error:
            step(here, grad, state, HP)
        assert str(error.value) == f"{name} must be on param's device, {here.device}, got {there.device}"


def test_devices_of_torch() -> None:
    torch = pytest.importorskip("torch")
    here, there = torch.ones(3), torch.ones(3, device="meta")
    with pytest.raises(ValueError, match=r"^grad must be on param's device, cpu, got meta$"):
        step(here, there, init(here), HP)


class Noted(np.ndarray):
    """NumPy's own example of a subclass: it adds an attribute, and has the arithmetic of its base."""

    def __array_finalize__(self, source: Any) -> None:
        self.note = getattr(source, "note", None)


class InUnits(np.ndarray):
    def __array_ufunc__(self, ufunc: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("units were looked at")


NOT_PLAIN = {
    "masked": np.ma.array(np.ones(4), mask=[0, 0, 1, 1]),
    "matrix": np.ones((2, 2)).view(np.matrix),
    "units": np.ones(4).view(InUnits),
}


@pytest.mark.parametrize("kind", NOT_PLAIN)
@pytest.mark.parametrize("function", [step, trace, stepsizes_by_operation])
def test_arrays_with_arithmetic_of_their_own(function: Any, kind: str) -> None:
    """A mask would change γ: (Σv)² / (d Σv²) of four coordinates, two of them masked, is not that of the four."""
    odd = NOT_PLAIN[kind]
    x, name = np.asarray(odd), type(odd).__name__
    state = init(x)
    places = {
        "param": (odd, x, state),
        "grad": (x, odd, state),
        "state.m": (x, x, state._replace(m=odd)),
        "state.v": (x, x, state._replace(v=odd)),
    }
    for place, arguments in places.items():
        with pytest.raises(TypeError) as error:
            function(*arguments, HP)
        assert str(error.value) == f"{place} must be a plain array, got {name}, which has its own arithmetic"
    with pytest.raises(TypeError, match=rf"^param must be a plain array, got {name}"):
        init(odd)


@pytest.mark.parametrize("kind", [np.memmap, Noted, np.recarray])
def test_subclasses_that_compute_as_arrays_do(kind: Any, tmp_path: Any) -> None:
    plain = np.arange(1.0, 4.0)
    odd = plain.copy().view(kind) if kind is not np.memmap else np.memmap(tmp_path / "x", plain.dtype, "w+", shape=3)
    odd[...] = plain
    expected, state = step(plain, plain, init(plain), HP)
    got, new = step(odd, odd, init(odd), HP)
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(new.v, state.v)


def test_kinds_of_torch() -> None:
    torch = pytest.importorskip("torch")
    x = torch.arange(1.0, 4.0)
    expected, _ = step(x, x, init(x), HP)
    for plain in (torch.nn.Parameter(x), torch.nn.Buffer(x)):
        got, _ = step(plain, x, init(plain), HP)
        assert torch.equal(got, expected)
    with pytest.warns(UserWarning, match="prototype"):
        masked = torch.masked.masked_tensor(x, x > 1)
    with pytest.raises(TypeError, match=r"^grad must be a plain array, got MaskedTensor, which has its own arithmetic"):
        step(x, masked, init(x), HP)


def test_masks_in_the_chunks_of_dask() -> None:
    da = pytest.importorskip("dask.array")
    with pytest.raises(TypeError, match=r"^param must be a plain array, got MaskedArray"):
        init(da.from_array(NOT_PLAIN["masked"]))


def test_statistics_of_a_masked_moment() -> None:
    layer = check_layer(*[np.ones(4)] * 4, 1, HP, None)
    with pytest.raises(TypeError, match=r"^exp_avg_sq must be a plain array, got MaskedArray"):
        layer_statistics(NOT_PLAIN["masked"], 1, layer, HP)


@pytest.mark.parametrize("function", [step, trace, stepsizes_by_operation])
@pytest.mark.parametrize(
    ("state", "got"),
    [(None, "NoneType"), ((np.ones(3), np.ones(3)), "tuple of 2"), ([0], "list of 1"), ({"m": 0}, "dict")],
    ids=["none", "two", "list", "dict"],
)
def test_what_is_no_state(function: Any, state: Any, got: str) -> None:
    with pytest.raises(TypeError) as error:
        function(np.ones(3), np.ones(3), state, HP)
    assert str(error.value) == f"state must have m, v and t, as setadam_core.init returns it, got {got}"


@pytest.mark.parametrize("param", [5, None, [1.0]], ids=repr)
def test_init_of_what_is_no_array(param: Any) -> None:
    with pytest.raises(TypeError) as error:
        init(param)
    assert str(error.value) == f"param must be an array, got {type(param).__name__}"


def test_bfloat16_under_a_numpy_that_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("setadam_core.layers._NUMPY_IS_OLD", True)
    with pytest.raises(RuntimeError, match=r"^bfloat16 needs NumPy 2\.1\.2 or later, got "):
        init(np.ones(3, ml_dtypes.bfloat16))
    init(np.ones(3, np.float16))
