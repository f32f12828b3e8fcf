"""A failing example as a complete program, which prints the trace of the step: the formula beside the backend."""

from typing import Any

import numpy as np

from setadam_conformance.cases.case import Case, LayerCase
from setadam_conformance.protocol import NumPyArray
from setadam_conformance.running.backends import Given, Source

_LARGE = 256  # numbers: an example with more of them is not code to be read


def snippet(case: Case, source: Source, prop: str) -> str:
    """Python code that repeats the step on the backend and on the specification, bit for bit.

    NaN loses its payload, and arrays are contiguous. Of a large example, it is code that reads the file for `replay`.
    It is empty if there is no path by which code could import the adapter.
    """
    if isinstance(source, Given) and not source.has_path:
        return ""
    seed = "" if case.seed is None else f", seed={case.seed}"
    size = sum(layer.m.size for layer in case.layers)
    if size > _LARGE:
        made = 'import json, sys\ncase = case_from_json(json.load(open(sys.argv[1]))["case"])  # the file for replay'
        imports = "case_from_json"
    else:
        layers = "".join(map(_layer, case.layers))
        made = f"case = Case({case.dtype!r}, ({layers}\n), t={case.t}, hp={_literal(case.hp)}{seed})"
        imports = "Case, LayerCase, dtype_of" if "dtype_of" in layers else "Case, LayerCase"
    return f"""# {prop} on {source.name}, {case.dtype}
import numpy as np
from numpy import array, inf, nan
from setadam_conformance.cases.case import {imports}
from setadam_conformance.diagnosis import trace_of
from setadam_conformance.judging.bench import Bench
from setadam_conformance.reporting.failures import trace_lines
from setadam_conformance.running.backends import select
{made}
adapter = select([{source.name!r}])[0].make("cpu")
answer = Bench(adapter, case.dtype).step(case)
print(*trace_lines(trace_of(case, answer, adapter.capabilities)), sep="\\n")
"""


def _layer(layer: LayerCase) -> str:
    arrays = ", ".join(f"{name}={_array(getattr(layer, name))}" for name in ("param", "grad", "m", "v"))
    axes = "" if layer.axes is None else f", axes={layer.axes}"
    return f"\n    LayerCase({arrays}{axes}),"


def _array(x: NumPyArray) -> str:
    """An array in decimal, which NumPy reads back to the same bits."""
    bfloat16 = str(x.dtype) == "bfloat16"
    wide = x.astype(np.float64) if bfloat16 else x
    shaped = f".reshape({x.shape})" if x.size == 0 and x.shape != (0,) else ""
    return (
        f"array({_numbers(wide)}, {'dtype_of(' + repr(str(x.dtype)) + ')' if bfloat16 else repr(str(x.dtype))}){shaped}"
    )


def _numbers(x: NumPyArray) -> str:
    """Nested lists, or a number. The shortest decimals that are exact in the array's own format."""
    if x.ndim and x.size:
        return f"[{', '.join(_numbers(row) for row in x)}]"
    if x.size == 0:
        return "[]"
    value: Any = x[()]
    if x.dtype.kind == "c":
        return f"complex({_numbers(np.asarray(value.real))}, {_numbers(np.asarray(value.imag))})"
    if not np.isfinite(value):
        return str(float(value))
    if value and not 1e-4 <= abs(float(value)) < 1e6:
        return np.format_float_scientific(value, trim="-")
    return np.format_float_positional(value, trim="0")


def _literal(hp: dict[str, object]) -> str:
    return "{" + ", ".join(f"{name!r}: {value!r}" for name, value in hp.items()) + "}"
