"""The kernels under Triton's interpreter, on CPU tensors, for the conformance kit and the tests here.

The interpreter must be chosen before Triton is imported: `TRITON_INTERPRET=1` in the environment. In
three places it does not do as the compiler does, and is set right here.
"""

import os
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import triton.language as tl
from steps import TritonSteps
from triton.runtime import interpreter


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


class Interpreted(TritonSteps):
    """It takes some hundred times as long as a compiled kernel."""

    name = "torch:triton-interpreted"
    capabilities = replace(TritonSteps.capabilities, devices=("cpu",), cost=30)
