"""The floating-point formats of backends, and the wider arithmetic in which they are judged."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import ml_dtypes
import mpmath
import numpy as np
import numpy.typing as npt

from setadam_conformance.protocol import Capabilities
from setadam_core.layers import COMPUTE_DTYPE

Wide = npt.NDArray[Any]  # an array of float64, longdouble or, as objects, mpmath numbers


@dataclass(frozen=True)
class Format:
    """A binary format: u is its unit roundoff, half the distance from 1 to the next number."""

    name: str
    u: float
    smallest_normal: float
    smallest_subnormal: float
    largest: float

    @property
    def numpy(self) -> np.dtype[Any]:
        return np.dtype(ml_dtypes.bfloat16 if self.name == "bfloat16" else self.name)


def _format(name: str, bits: int, min_exponent: int, max_exponent: int) -> Format:
    return Format(
        name,
        u=2.0**-bits,
        smallest_normal=2.0**min_exponent,
        smallest_subnormal=2.0 ** (min_exponent - bits + 1),
        largest=(2 - 2.0 ** (1 - bits)) * 2.0**max_exponent,
    )


FORMATS = {
    "float64": _format("float64", 53, -1022, 1023),
    "float32": _format("float32", 24, -126, 127),
    "bfloat16": _format("bfloat16", 8, -126, 127),
    "float16": _format("float16", 11, -14, 15),
}


def compute_format(dtype: str) -> Format:
    """The format in which the step of a parameter of this dtype is computed."""
    return FORMATS[COMPUTE_DTYPE[dtype]]


def arithmetic_format(dtype: str, claims: Capabilities) -> Format:
    """The format in which a backend with these claims computes the step of a parameter of this dtype."""
    return FORMATS[dtype] if claims.arithmetic == "parameter" else compute_format(dtype)


def moment_format(dtype: str, claims: Capabilities) -> Format:
    """The format of m and v in a backend with these claims."""
    return FORMATS[dtype] if claims.moments == "parameter" else compute_format(dtype)


def neighbours(x: Wide, to: Format) -> tuple[Wide, Wide]:
    """The largest number of a 16-bit format that is not above x, and the smallest that is not below. x: float64."""
    apart = np.maximum(np.ldexp(2 * to.u, np.frexp(x)[1] - 1), to.smallest_subnormal)
    return np.floor(x / apart) * apart, np.ceil(x / apart) * apart


class Arithmetic:
    """Real arithmetic wider than a format, in which the reference and its bound are computed.

    float32 and narrower formats are judged in float64. float64 is judged in NumPy's longdouble if that has at least 11
    more bits (x86), and otherwise in mpmath, which is slower and equally accurate. u is the unit roundoff.
    """

    def __init__(self, compute: str, longdouble: bool | None = None) -> None:
        if longdouble is None:
            longdouble = np.finfo(np.longdouble).nmant >= 63
        self.context = mpmath.MPContext()
        self.context.prec = 200
        self.dtype: np.dtype[Any]
        if compute != "float64":
            self.dtype, self.u = np.dtype(np.float64), 2.0**-53
        elif longdouble:
            self.dtype, self.u = np.dtype(np.longdouble), float(2.0 ** -(np.finfo(np.longdouble).nmant + 1))
        else:
            self.dtype, self.u = np.dtype(object), 2.0**-200
        self._to_mp = np.frompyfunc(lambda x: self.context.mpf(float(x)), 1, 1)
        self._bias_correction = lru_cache(maxsize=1024)(self._form_bias_correction)
        self._sqrt = np.frompyfunc(self.context.sqrt, 1, 1) if self.dtype == object else np.sqrt

    def array(self, x: npt.ArrayLike) -> Wide:
        """The same numbers, exactly; x holds numbers of a narrower format."""
        x = np.asarray(x)
        if self.dtype != object:
            return np.asarray(x.astype(self.dtype))
        return np.asarray(self._to_mp(x.astype(np.float64)), dtype=object)

    def number(self, x: Any) -> Any:
        """An mpmath number, rounded to this arithmetic."""
        if self.dtype == object:
            return self.context.mpf(x)
        mantissa, exponent = self.context.frexp(self.context.mpf(x))
        high = float(mantissa)  # two float64 parts hold every longdouble
        low = float(mantissa - high)
        return np.ldexp(self.dtype.type(high) + self.dtype.type(low), exponent)

    def sqrt(self, x: Wide) -> Wide:
        return np.asarray(self._sqrt(x), dtype=self.dtype)

    def bias_correction(self, beta: float, t: int) -> Any:
        """1 - βᵗ, accurate to the last bit of this arithmetic."""
        return self._bias_correction(beta, t)

    def _form_bias_correction(self, beta: float, t: int) -> Any:
        if beta == 0:
            return self.number(self.context.mpf(1))
        exponent = t * self.context.log(self.context.mpf(beta))
        return self.number(-self.context.expm1(exponent))
