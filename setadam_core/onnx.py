"""One step as an ONNX graph, for programs without Python: the specification, run on arrays without values.

Needs the extra `onnx` (ndonnx); `import setadam_core` does not import this module. Nothing of the algorithm is here:
`spec.step` computes on ndonnx's lazy arrays, which record each operation as a node. docs/onnx.md runs such graphs from
other languages.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from setadam_core.extras import pip_install
from setadam_core.hyperparameters import Hyperparameters
from setadam_core.layers import COMPUTE_DTYPE
from setadam_core.spec import State, step

if TYPE_CHECKING:
    import onnx

# ONNX's complex types have almost no operations, and ndonnx has no bfloat16.
DTYPES = ("float16", "float32", "float64")
_NUMBERS = ("lr", "beta1", "beta2", "eps", "tau")


def export_step(
    shape: Sequence[int],
    dtype: str = "float32",
    *,
    layer_axes: Sequence[int] | None = None,
    weight_decay: bool = False,
    decoupled_weight_decay: bool = False,
    maximize: bool = False,
    cos_power: float = 2,
    eps_inside_sqrt: bool = True,
) -> "onnx.ModelProto":
    """One step of SET-Adam for parameters of one shape and dtype, as a model of ONNX's opset 21.

    =================== ========================================== =====================================
    input               dtype and shape                            meaning
    =================== ========================================== =====================================
    param, grad         ``dtype``, ``shape``                       θₜ₋₁ and its gradient
    m, v                float64 for float64, else float32; shape   the moments mₜ₋₁, vₜ₋₁; zeros at first
    t                   int64, ()                                  steps taken so far; 0 at first
    lr, beta1, beta2,   float64, ()                                as in `Hyperparameters`
    eps, tau
    weight_decay        float64, ()                                only with ``weight_decay=True``
    =================== ========================================== =====================================

    The outputs ``new_param``, ``new_m``, ``new_v`` and ``new_t`` have the dtypes and shapes of their inputs; the
    last three are inputs of the next step.

    Parameters
    ----------
    shape : sequence of int
        Of the parameter. It is part of the graph, since γ depends on the number of coordinates in a layer.
    dtype : str
        "float16", "float32" or "float64".
    layer_axes : sequence of int or None
        The axes that make one layer, default all, as in `setadam_core.step`.
    weight_decay : bool
        Whether the graph has weight decay, and an input for it.
    decoupled_weight_decay, maximize, cos_power, eps_inside_sqrt
        As in `Hyperparameters`. They decide which operations the graph has, so they are not inputs.

    Raises
    ------
    ImportError : ndonnx is not installed.
    TypeError, ValueError : an argument that does not fit, by its name.

    Notes
    -----
    The graph is `setadam_core.step` (arXiv 2302.01029, algorithm 1) with hyperparameters that are arrays: coefficients
    are formed in float64, and rounded once to the dtype of the moments. A graph cannot raise errors, so numbers outside
    the ranges of `Hyperparameters` are not refused.
    """
    shape = _checked_shape(shape)
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    if not isinstance(weight_decay, bool | np.bool_):
        raise TypeError(
            f"weight_decay must be True or False, whether the graph has such an input, got {weight_decay!r}"
        )
    if decoupled_weight_decay and not weight_decay:
        raise ValueError(f"weight_decay must be True with decoupled_weight_decay=True, got {weight_decay!r}")
    ndx = _ndonnx()

    def argument(name: str, of: Sequence[int] = ()) -> Any:
        return ndx.argument(shape=of, dtype=getattr(ndx, name))

    compute = COMPUTE_DTYPE[dtype]
    arrays = {"param": argument(dtype, shape), "grad": argument(dtype, shape)}
    state = State(argument(compute, shape), argument(compute, shape), argument("int64"))
    numbers = {name: argument("float64") for name in (*_NUMBERS, *(["weight_decay"] if weight_decay else []))}
    hp = Hyperparameters(
        **numbers,
        decoupled_weight_decay=decoupled_weight_decay,
        maximize=maximize,
        cos_power=cos_power,
        eps_inside_sqrt=eps_inside_sqrt,
    )
    new_param, new = step(arrays["param"], arrays["grad"], state, hp, layer_axes=layer_axes)
    outputs = {"new_param": new_param} | {f"new_{field}": x for field, x in new._asdict().items()}
    model: onnx.ModelProto = ndx.build(arrays | state._asdict() | numbers, outputs)
    model.doc_string = f"One step of SET-Adam, arXiv 2302.01029. layer_axes={layer_axes}, {_switches(hp)}"
    return model


def _switches(hp: Hyperparameters) -> str:
    names = ("decoupled_weight_decay", "maximize", "cos_power", "eps_inside_sqrt")
    return ", ".join(f"{name}={getattr(hp, name)}" for name in names)


def _checked_shape(shape: Any) -> tuple[int, ...]:
    whole = isinstance(shape, tuple | list) and all(type(n) is int and n >= 0 for n in shape)
    if not whole:
        raise ValueError(f"shape must be a tuple or list of whole numbers ≥ 0, got {shape!r}")
    return tuple(shape)


def _ndonnx() -> Any:
    try:
        import ndonnx
    except ImportError as error:
        raise ImportError(f"setadam_core.onnx needs ndonnx: {pip_install('onnx')}") from error
    return ndonnx
