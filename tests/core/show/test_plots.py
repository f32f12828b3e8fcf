"""The pictures show the numbers that they are given, from any backend. Errors name what cannot be read."""

import builtins
import math
import sys
from typing import Any, NamedTuple

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from setadam_core import Hyperparameters, State
from setadam_core.show import demo, plots
from setadam_core.show.operations import stepsizes_by_operation

HP, EMPTY = Hyperparameters(), np.ones(0)
FIELDS = ("gamma", "w_min", "floor_share", "stepsize_min", "stepsize_mean", "stepsize_std", "stepsize_max")


class Statistics(NamedTuple):  # the same fields as setadam_jax.LayerStatistics, in another order
    stepsize_mean: Any
    stepsize_std: Any
    stepsize_min: Any
    stepsize_max: Any
    w_min: Any
    floor_share: Any
    gamma: Any


def row(seed: int, shape: tuple[int, ...] = ()) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    arrays = {field: rng.uniform(0.1, 1, shape) for field in FIELDS}
    return arrays if shape else {field: float(x) for field, x in arrays.items()}


def history(names: tuple[str, ...] = ("a.weight", "a.bias"), steps: tuple[int, ...] = (1, 5, 9)) -> dict[int, Any]:
    return {t: {name: row(100 * t + i) for i, name in enumerate(names)} for t in steps}


def lines(axes: Any) -> list[tuple[list[float], list[float]]]:
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines]


def test_stepsizes_shows_mean_and_std_of_each_layer() -> None:
    runs = {"Adam": history(steps=(1, 5, 9)), "SET-Adam": history(steps=(9, 3))}  # in any order
    figure = plots.stepsizes(runs)
    panels = np.array(figure.axes).reshape(2, 2)
    for column, (run, given) in zip(panels.T, runs.items(), strict=True):
        assert column[0].get_title() == run
        for axes, field in zip(column, ("stepsize_mean", "stepsize_std"), strict=True):
            steps = sorted(given)
            expected = [(steps, [given[t][name][field] for t in steps]) for name in given[9]]
            assert lines(axes) == expected
            assert axes.get_yscale() == "log"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a.weight", "a.bias"]


def test_a_spread_of_zero_is_left_out_of_the_logarithmic_axis() -> None:
    given = {1: {"a": row(0) | {"stepsize_std": 0.0}}, 2: {"a": row(1)}}
    _, below = plots.stepsizes({"run": given}).axes
    (_, values), *_ = lines(below)
    assert math.isnan(values[0])
    assert values[1] == given[2]["a"]["stepsize_std"]


def test_a_layer_may_appear_late() -> None:
    given = {1: {"a": row(0)}, 2: {"a": row(1), "b": row(2)}}
    above, _ = plots.stepsizes({"run": given}).axes
    assert [x for x, _ in lines(above)] == [[1, 2], [2]]


def test_many_layers_have_a_short_legend() -> None:
    figure = plots.stepsizes({"run": history(tuple(f"l{i}" for i in range(40)))})
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["l0", "l39"]


@pytest.mark.parametrize("power", [1, 2, 4])
def test_angles(power: float) -> None:
    degrees = {1: (0, 80), 5: (10, 20), 9: (30, 60)}
    given = {
        t: {name: row(0) | {"gamma": math.cos(math.radians(x)) ** power} for name, x in zip("ab", xs, strict=True)}
        for t, xs in degrees.items()
    }
    over_time, by_layer = plots.angles(given, cos_power=power).axes
    for line, expected in zip(lines(over_time), ([0, 10, 30], [80, 20, 60]), strict=True):
        # arccos near 1 halves the digits: rounding of 1e-16 is 1e-8 rad
        assert line[0] == [1, 5, 9]
        assert line[1] == pytest.approx(expected, abs=1e-5)
    drawn = [x for x, _ in lines(by_layer)]
    assert drawn[0] == pytest.approx([0, 30], abs=1e-5)
    assert drawn[1] == pytest.approx([30], abs=1e-5)
    assert drawn[2] == pytest.approx([20, 80], abs=1e-5)
    assert [label.get_text() for label in by_layer.get_yticklabels()] == ["a", "b"]


def test_gamma_by_size() -> None:
    given = {"a.weight": row(0), "a.bias": row(1), "b.weight": row(2)}
    (axes,) = plots.gamma_by_size(given, {"a.weight": 12, "a.bias": 3, "b.weight": 70, "unused": 5}).axes
    by_label = dict(zip((line.get_label() for line in axes.lines), lines(axes), strict=True))
    assert by_label["weight"] == ([12, 70], [given["a.weight"]["gamma"], given["b.weight"]["gamma"]])
    assert by_label["bias"] == ([3], [given["a.bias"]["gamma"]])
    limit = next(xy for label, xy in by_label.items() if label.startswith("1/d"))
    assert [x * y for x, y in zip(*limit, strict=True)] == pytest.approx([1, 1])


def test_gamma_by_size_of_many_kinds_has_one_colour() -> None:
    given = {f"layer.{kind}": row(i) for i, kind in enumerate("abcdefgh")}
    (axes,) = plots.gamma_by_size(given, dict.fromkeys(given, 4)).axes
    assert [line.get_label() for line in axes.lines][2:] == ["layer"]


def test_operations_shows_every_coordinate() -> None:
    hp = Hyperparameters()
    figure = plots.operations(demo.PARAM, demo.GRAD, demo.STATE, hp)
    found = stepsizes_by_operation(demo.PARAM, demo.GRAD, demo.STATE, hp)
    assert len(figure.axes) == 4
    for axes, stepsizes in zip(figure.axes, found.values(), strict=True):
        (outline,) = axes.patches
        x, heights = outline.get_xy().T
        tops = {float(a): float(b) for a, b in zip(x, heights, strict=True) if b > 0}
        assert tops, "there are bars"
        assert min(tops) <= stepsizes.min()
        assert max(tops) >= stepsizes.max()
        ends = [line.get_xdata()[0] for line in axes.lines]
        assert ends == [stepsizes.min(), stepsizes.max()]
        assert axes.get_title("left").endswith(f"largest/smallest = {stepsizes.max() / stepsizes.min():.3g}")
        assert axes.get_xscale() == "log"


def test_stacks_and_trees_of_any_kind() -> None:
    """Nested dicts, lists and named tuples, leaves with one value for each layer; None is an empty tree."""
    stack = row(3, (2, 2))
    tree = {"encoder": [Statistics(**row(1)), None], "gamma": {"beta": Statistics(**stack)}}
    found = dict(plots._layers(tree))
    assert list(found) == ["encoder.0"] + [f"gamma.beta[{i}, {j}]" for i in range(2) for j in range(2)]
    assert found["encoder.0"] == row(1)
    assert found["gamma.beta[1, 0]"] == {field: x[1, 0] for field, x in stack.items()}
    sizes = {"encoder": [3, None], "gamma": {"beta": 4}}
    (axes,) = plots.gamma_by_size(tree, sizes).axes
    assert sorted(x for line in lines(axes)[2:] for x in line[0]) == [3, 4, 4, 4, 4]


def test_what_torch_returns() -> None:
    torch = pytest.importorskip("torch")
    from setadam_torch import SETAdam

    model = torch.nn.Linear(3, 2)
    stacked = torch.nn.Parameter(torch.ones(4, 3))
    groups = [{"params": list(model.named_parameters())}, {"params": [("stack", stacked)], "layer_axes": (1,)}]
    optimizer = SETAdam(groups)
    given = {}
    for t in (1, 2):
        (model(torch.rand(5, 3)).square().sum() + (stacked * stacked).sum()).backward()
        optimizer.step()
        given[t] = optimizer.layer_statistics()
    above, _ = plots.stepsizes({"run": given}).axes
    names = ["weight", "bias", "stack[0]", "stack[1]", "stack[2]", "stack[3]"]
    assert [line.get_label() for line in above.lines] == names
    assert lines(above)[0] == ([1, 2], [given[t]["weight"]["stepsize_mean"] for t in (1, 2)])
    weight = optimizer.state[model.weight]
    state = State(weight["exp_avg"], weight["exp_avg_sq"], 2)
    plots.operations(model.weight, model.weight.grad, state, Hyperparameters())


def test_what_numpy_returns() -> None:
    from setadam_numpy import SETAdam

    params = {"encoder": [np.ones((2, 3)), np.ones(3)]}
    optimizer = SETAdam(params)
    optimizer.step({"encoder": [np.arange(6.0).reshape(2, 3), np.arange(3.0)]})
    statistics = optimizer.layer_statistics()
    above, _ = plots.stepsizes({"run": {1: statistics}}).axes
    assert [line.get_label() for line in above.lines] == ["encoder.0", "encoder.1"]
    assert lines(above)[1] == ([1], [statistics["encoder.1"]["stepsize_mean"]])


def test_what_jax_returns() -> None:
    jax = pytest.importorskip("jax")
    pytest.importorskip("optax")
    from setadam_jax import layer_statistics, set_adam

    params = {"dense": {"kernel": jax.numpy.ones((3, 2)), "bias": jax.numpy.ones(2)}}
    grads = {"dense": {"kernel": jax.numpy.arange(6.0).reshape(3, 2), "bias": jax.numpy.ones(2)}}
    optimizer = set_adam(1e-3)
    _, state = optimizer.update(grads, optimizer.init(params), params)
    statistics = layer_statistics(state, params)
    (axes,) = plots.gamma_by_size(statistics, jax.tree.map(jax.numpy.size, params)).axes
    by_label = dict(zip((line.get_label() for line in axes.lines), lines(axes), strict=True))
    assert by_label["kernel"] == ([6], [float(statistics["dense"]["kernel"].gamma)])
    over_time, _ = plots.angles({1: statistics}).axes
    assert len(over_time.lines) == 2


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: plots.stepsizes({}), ValueError, "runs must name at least one"),
        (lambda: plots.stepsizes({"run": {}}), ValueError, "history must have at least one layer"),
        (lambda: plots.stepsizes({"run": [1]}), TypeError, "dict from step to statistics, got list"),
        (lambda: plots.angles({1: {"a": 3.0}}), TypeError, "what layer_statistics returns, got float at 'a'"),
        (lambda: plots.angles(history(), cos_power=0), ValueError, "cos_power must be > 0, got 0"),
        (lambda: plots.gamma_by_size({"a": row(0)}, {"b": 2}), ValueError, "got none for 'a'"),
        (lambda: plots.gamma_by_size({"a": row(0)}, {"a": 0}), ValueError, "whole numbers ≥ 1, got 0 for 'a'"),
        (lambda: plots.gamma_by_size({"a": row(0)}, {"a": "2"}), TypeError, "sizes must be numbers, got str at 'a'"),
        (lambda: plots.gamma_by_size({}, {}), ValueError, "statistics must have at least one layer"),
        (lambda: plots.operations(EMPTY, EMPTY, State(EMPTY, EMPTY, 0), HP), ValueError, "param must have coordinates"),
    ],
)  # fmt: skip
def test_errors(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_without_matplotlib_the_error_says_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "matplotlib":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r"pip install .*matplotlib"):
        plots.angles(history())
