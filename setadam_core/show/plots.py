"""Pictures of the effect of S, E and T on the stepsizes of each layer. Needs matplotlib: the extra `plot`.

All functions but `operations` take what `layer_statistics` of a backend returns: a dict by name (PyTorch, NumPy,
CuPy) or a pytree (JAX), whose leaves have γ and the spread of the stepsizes 1/w̃. Pictures over time take a history,
a dict from the step to these statistics:

    history[t] = optimizer.layer_statistics()

Layers are drawn in the order of the statistics, and coloured from the first (dark) to the last (light). Each function
returns a `matplotlib.figure.Figure`, for `savefig`, and changes no global state.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from setadam_core.extras import pip_install
from setadam_core.hyperparameters import Hyperparameters
from setadam_core.layers import Array
from setadam_core.show.operations import stepsizes_by_operation
from setadam_core.show.statistics import NAMES
from setadam_core.spec import State

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
Statistics = Any  # what layer_statistics returns
History = Mapping[int, Statistics]

# Okabe and Ito's colours, which colour-blind readers can distinguish.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_BINS = 60


def operations(param: Array, grad: Array, state: State, hp: Hyperparameters) -> "Figure":
    """The distribution of the stepsizes in one layer: of Adam, then after S, after E and after T.

    Parameters
    ----------
    param, grad, state, hp :
        As for `setadam_core.trace`, of any namespace; the whole array is one layer.

    Returns
    -------
    Figure : four histograms on one logarithmic axis, each with its smallest and largest stepsize marked
        and the ratio of the two. Adam's here is 1/(√v̂ + ε), with the same v and ε.

    Raises
    ------
    ImportError : matplotlib is not installed.
    ValueError : a layer without coordinates; also what `trace` raises.
    """
    if 0 in param.shape:
        raise ValueError(f"param must have coordinates, got shape {tuple(param.shape)}")
    figure = _figure(7.0, 4.6)
    found = stepsizes_by_operation(param, grad, state, hp)
    stages = {name: np.asarray(x.tolist(), np.float64).ravel() for name, x in found.items()}
    every = np.concatenate(list(stages.values()))
    edges = np.geomspace(every.min() / 1.05, every.max() * 1.05, _BINS)
    panels = figure.subplots(len(stages), sharex=True)
    titles = ("Adam", "S: down-scaling", "S, E: ε-embedding", "S, E, T: down-translating")
    for axes, title, colour, stepsizes in zip(panels, titles, _COLOURS, stages.values(), strict=False):
        axes.hist(stepsizes, bins=edges, color=colour, histtype="stepfilled")
        ends = float(stepsizes.min()), float(stepsizes.max())
        for end in ends:
            axes.axvline(end, color="0.4", linewidth=0.8, linestyle=":")
        axes.set_title(f"{title}    largest/smallest = {ends[1] / ends[0]:.3g}", loc="left", fontsize="medium")
        axes.set_yticks([])
        axes.spines[["left", "top", "right"]].set_visible(False)
    panels[-1].set_xscale("log")
    panels[-1].set_xlabel(f"stepsize of each of the {stages['Adam'].size} coordinates")
    return figure


def stepsizes(runs: Mapping[str, History]) -> "Figure":
    """Mean and standard deviation of each layer's stepsizes over training, a column for each run.

    Parameters
    ----------
    runs :
        Name of the run, such as "Adam" and "SET-Adam", to its history.

    Returns
    -------
    Figure : means above, standard deviations below, logarithmic and on the same axis in all columns. A
        standard deviation of 0 (a layer of one coordinate) is left out.

    Raises
    ------
    ImportError : matplotlib is not installed.
    TypeError, ValueError : a run that is not a history; no run, or one without layers.
    """
    if not runs:
        raise ValueError("runs must name at least one history, got none")
    series = {name: _series(history) for name, history in runs.items()}
    figure = _figure(1.4 + 1.75 * max(len(runs), 2), 4.4)
    panels = figure.subplots(2, len(runs), sharex="col", sharey="row", squeeze=False)
    for column, (run, layers) in zip(panels.T, series.items(), strict=True):
        for axes, field in zip(column, ("stepsize_mean", "stepsize_std"), strict=True):
            for (name, rows), colour in zip(layers.items(), _by_depth(len(layers)), strict=True):
                values = np.array([row[field] for _, row in rows])
                steps = [t for t, _ in rows]
                axes.plot(steps, np.where(values > 0, values, np.nan), color=colour, linewidth=1.2, label=name)
            axes.set_yscale("log")
            _tidy(axes)
        column[0].set_title(run, fontsize="medium")
        column[1].set_xlabel("step")
    panels[0, 0].set_ylabel("mean of the stepsizes")
    panels[1, 0].set_ylabel("their standard deviation")
    handles = {line.get_label(): line for line in panels[0, 0].lines}
    _legend(figure, list(handles.values()))
    return figure


def angles(history: History, *, cos_power: float = 2) -> "Figure":
    """The angle between v and (1, …, 1) in each layer, over time and by layer.

    The angle is computed from γ = cosⁿ∠(v, 1), so S must be on: with n = 0, γ is always 1.

    Parameters
    ----------
    history :
        Step to statistics, of a run with down-scaling.
    cos_power :
        n > 0, as in the optimizer.

    Returns
    -------
    Figure : on the left the angle over the steps, in degrees; on the right each layer's range over the
        history, with the last angle marked. 0° means equal second moments; a layer of d coordinates
        cannot be above arccos(1/√d).

    Raises
    ------
    ImportError : matplotlib is not installed.
    TypeError, ValueError : the argument is not a history; no layers, or n ≤ 0.
    """
    if not cos_power > 0:
        raise ValueError(f"cos_power must be > 0, got {cos_power!r}: with down-scaling off, γ is 1 and gives no angle")
    layers = _series(history)
    figure = _figure(8.0, max(2.8, 0.22 * len(layers) + 1.2))
    over_time, by_layer = figure.subplots(1, 2, sharey=False, width_ratios=(3, 2))
    for i, ((_, rows), colour) in enumerate(zip(layers.items(), _by_depth(len(layers)), strict=True)):
        degrees = np.degrees(np.arccos(np.array([row["gamma"] for _, row in rows]) ** (1 / cos_power)))
        over_time.plot([t for t, _ in rows], degrees, color=colour, linewidth=1.2)
        by_layer.plot([degrees.min(), degrees.max()], [i, i], color=colour, linewidth=2, solid_capstyle="butt")
        by_layer.plot(degrees[-1], i, "o", color=colour, markersize=5)
    over_time.set_xlabel("step")
    over_time.set_ylabel("∠(v, 1) in degrees")
    by_layer.set_xlabel("range and last, in degrees")
    by_layer.set_yticks(range(len(layers)), list(layers))
    by_layer.invert_yaxis()
    for axes in (over_time, by_layer):
        _tidy(axes)
    over_time.set_ylim(bottom=0)
    by_layer.set_xlim(left=0)
    return figure


def gamma_by_size(statistics: Statistics, sizes: Any) -> "Figure":
    """γ of each layer against its number of coordinates d, with the limits 1/d ≤ γ ≤ 1.

    Parameters
    ----------
    statistics :
        What layer_statistics returned at one step.
    sizes :
        The same names or tree, with d of a layer in place of its statistics (for several layers in
        one array, the d of one layer): ``{name: p.numel() for name, p in model.named_parameters()}``.

    Returns
    -------
    Figure : one point for each layer on logarithmic axes, coloured by the last part of its name: weight, bias, …

    Raises
    ------
    ImportError, TypeError : matplotlib is not installed; the argument is not statistics.
    ValueError : no layers, a layer whose size is missing, or a size that is not a whole number ≥ 1.
    """
    layers = dict(_layers(statistics))
    known = dict(_sizes(sizes))
    groups: dict[str, list[tuple[int, float]]] = {}
    for name, row in layers.items():
        array = name.partition("[")[0]
        size = known.get(array)
        if size is None:
            raise ValueError(f"sizes must have an entry for each layer, got none for {array!r}")
        groups.setdefault(array.rpartition(".")[2], []).append((size, row["gamma"]))
    if not groups:
        raise ValueError("statistics must have at least one layer, got none")
    if len(groups) > len(_COLOURS):
        groups = {"layer": [point for points in groups.values() for point in points]}
    figure = _figure(5.6, 3.8)
    axes = figure.subplots()
    d = np.array([1, 3 * max(size for points in groups.values() for size, _ in points)])
    axes.plot(d, 1 / d, color="0.4", linewidth=1, linestyle="--", label="1/d, one live coordinate")
    axes.axhline(1, color="0.4", linewidth=1, linestyle=":", label="1, all equal")
    for (group, points), colour, marker in zip(groups.items(), _COLOURS, "osD^vP", strict=False):
        x, y = zip(*points, strict=True)
        axes.plot(x, y, marker, color=colour, markersize=6, label=group)
    axes.set(xscale="log", yscale="log", xlabel="coordinates in the layer, d", ylabel="γ", xlim=tuple(d))
    axes.set_ylim(min(float(y) for points in groups.values() for _, y in points) / 3, 1.5)
    _tidy(axes)
    axes.legend(frameon=False, fontsize="small")
    return figure


def _figure(width: float, height: float) -> "Figure":
    """An empty figure, in inches. The import is here so that `setadam_core` does not need matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(f"setadam_core.show.plots needs matplotlib: {pip_install('plot')}") from error
    return Figure(figsize=(width, height), layout="constrained")


def _by_depth(count: int) -> list[Any]:
    from matplotlib import colormaps

    return [colormaps["viridis"](x) for x in np.linspace(0, 0.92, count)]


def _tidy(axes: "Axes") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)


def _legend(figure: "Figure", handles: Sequence[Any]) -> None:
    """The names of the layers below the panels; of more than twelve, only the first and the last."""
    shown = handles if len(handles) <= 12 else [handles[0], handles[-1]]
    figure.legend(handles=list(shown), loc="outside lower center", ncols=min(len(shown), 6), frameon=False)


def _series(history: History) -> dict[str, list[tuple[int, dict[str, float]]]]:
    """For each layer, (step, statistics) in the order of the steps; a layer may appear later than others."""
    if not isinstance(history, Mapping):
        raise TypeError(f"a history must be a dict from step to statistics, got {type(history).__name__}")
    series: dict[str, list[tuple[int, dict[str, float]]]] = {}
    for t in sorted(history):
        for name, row in _layers(history[t]):
            series.setdefault(name, []).append((t, row))
    if not series:
        raise ValueError("a history must have at least one layer, got none")
    return series


def _layers(statistics: Statistics) -> Iterator[tuple[str, dict[str, float]]]:
    """The statistics of each layer by the path of its array; in a stack by path[0], path[1], …"""
    for name, leaf in _leaves(statistics, _is_layer, "statistics must be what layer_statistics returns"):
        fields = leaf if isinstance(leaf, Mapping) else leaf._asdict()
        # Arrays of all frameworks have tolist, on any device.
        arrays = {f: np.asarray(x.tolist() if hasattr(x, "tolist") else x) for f, x in fields.items() if f in NAMES}
        for index in np.ndindex(arrays["gamma"].shape):
            suffix = f"[{', '.join(map(str, index))}]" if index else ""
            yield name + suffix, {field: float(x[index]) for field, x in arrays.items()}


def _sizes(sizes: Any) -> Iterator[tuple[str, int]]:
    for name, size in _leaves(sizes, lambda x: hasattr(x, "__int__"), "sizes must be numbers"):
        if int(size) != size or size < 1:
            raise ValueError(f"sizes must be whole numbers ≥ 1, got {size!r} for {name!r}")
        yield name, int(size)


def _is_layer(x: Any) -> bool:
    return set(NAMES) <= set(x if isinstance(x, Mapping) else getattr(x, "_fields", ()))


def _leaves(
    tree: Any, is_leaf: Callable[[Any], bool], expected: str, path: tuple[str, ...] = ()
) -> Iterator[tuple[str, Any]]:
    """The leaves of a tree of dicts, sequences and dataclasses, by path; None is an empty tree."""
    if is_leaf(tree):
        yield ".".join(path), tree
        return
    if isinstance(tree, Mapping):
        children: dict[Any, Any] = dict(tree)
    elif isinstance(tree, list | tuple):
        children = tree._asdict() if hasattr(tree, "_asdict") else dict(enumerate(tree))
    elif dataclasses.is_dataclass(tree):
        children = {field.name: getattr(tree, field.name) for field in dataclasses.fields(tree)}
    elif tree is None:
        children = {}
    else:
        raise TypeError(f"{expected}, got {type(tree).__name__}" + (f" at {'.'.join(path)!r}" if path else ""))
    for key, child in children.items():
        yield from _leaves(child, is_leaf, expected, (*path, str(key)))
