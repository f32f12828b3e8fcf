"""The kernels under Triton's interpreter, on CPU tensors, for the conformance kit and the tests here.

The interpreter must be chosen before Triton is imported: `TRITON_INTERPRET=1` in the environment. In
three places it does not do as the compiler does, and is set right here.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import triton.language as tl
from triton.runtime import interpreter

from setadam_conformance.protocol import LayerState, Native
from setadam_torch import _triton
from setadam_torch.conformance import TorchSingle, _put, _states


def _repair() -> None:
    convert, cast = interpreter._implicit_cvt, interpreter.InterpreterBuilder.cast_impl
    patched: set[str] = set()

    def as_annotated(arg: Any) -> Any:
        """Numbers are annotated float64 in our kernels, and the compiler passes them so."""
        if isinstance(arg, float):
            return tl.tensor(interpreter.TensorHandle(np.array([arg]), tl.float64), tl.float64)
        return convert(arg)

    def rounded(self: Any, src: Any, dst_type: Any) -> Any:
        """float32 to bfloat16 rounds to nearest even (cvt.rn), where the interpreter truncates."""
        if src.dtype.scalar == tl.float32 and dst_type.scalar == tl.bfloat16:
            return interpreter.TensorHandle(src.data.astype(ml_dtypes.bfloat16).view(np.uint16), tl.bfloat16)
        return cast(self, src, dst_type)

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        """Calls between kernels: the interpreter patches triton.language anew in each, which takes four
        fifths of the time. The launch has patched it already, but for what the standard library uses.
        """
        module = self.fn.__globals__["__name__"]
        if module not in patched and module.startswith("triton."):
            interpreter._patch_lang(self.fn)
            patched.add(module)
        return self.rewrite()(*args, **kwargs)

    interpreter._implicit_cvt = as_annotated
    interpreter.InterpreterBuilder.cast_impl = rounded
    interpreter.InterpretedFunction.__call__ = call


assert os.environ.get("TRITON_INTERPRET") == "1", "run in a process of its own, with TRITON_INTERPRET=1"
_repair()


class Interpreted(TorchSingle):
    """`_triton.step_layers` for the kit: one call for all layers with the same layer_axes."""

    name = "torch:triton-interpreted"
    capabilities = replace(TorchSingle.capabilities, devices=("cpu",), reloads=(), cost=20)

    def step(
        self,
        params: Sequence[Native],
        grads: Sequence[Native],
        states: Sequence[LayerState],
        hp: Mapping[str, Any],
        layer_axes: Sequence[tuple[int, ...] | None],
    ) -> tuple[list[Native], list[LayerState]]:
        optimizer = self._optimizer(params, hp, layer_axes)
        _put(optimizer, params, grads, states)
        work = []
        for group in optimizer.param_groups:  # the optimizer's own checks of all, before any is updated
            columns: Any = [[], [], [], [], []]
            optimizer._init_group(group, *columns)
            work.append((group, columns))
        for group, columns in work:
            _triton.step_layers(group, *([x.detach() for x in xs] for xs in columns))
        return list(params), _states(optimizer, params)
