"""One example: all inputs of one step, bit for bit."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from setadam_conformance.cases.formats import FORMATS, compute_format
from setadam_conformance.protocol import NumPyArray
from setadam_core import Hyperparameters

DEFAULTS = {f.name: f.default for f in fields(Hyperparameters)}


@dataclass(frozen=True)
class LayerCase:
    """One layer: param and grad of shape s in the case's dtype (or its complex twin); m and v in the
    compute dtype, of shape s, or s + (2,) where param is complex.
    """

    param: NumPyArray
    grad: NumPyArray
    m: NumPyArray
    v: NumPyArray
    axes: tuple[int, ...] | None = None

    @property
    def is_complex(self) -> bool:
        return self.param.dtype.kind == "c"

    @property
    def real_axes(self) -> tuple[int, ...]:
        """The axes of m and v that make one layer."""
        ndim = self.param.ndim
        own = tuple(range(ndim)) if self.axes is None else tuple(sorted(axis % ndim for axis in self.axes))
        return (*own, ndim) if self.is_complex else own


@dataclass(frozen=True)
class Case:
    """The layers that one call updates.

    dtype: the real format. t: the number of steps taken before. seed: of a stochastic rounding; None for rounding to
    nearest. extra: small numbers and strings that a property needs
    beside the step itself (a seed, a power of 2).
    """

    dtype: str
    layers: tuple[LayerCase, ...]
    t: int = 0
    hp: dict[str, Any] = field(default_factory=lambda: dict(DEFAULTS))
    extra: dict[str, Any] = field(default_factory=dict)
    seed: int | None = None

    def __post_init__(self) -> None:
        if not self.layers:  # most optimizers refuse an empty list of parameters when they are made
            raise ValueError("a case must have at least one layer")

    @property
    def options(self) -> dict[str, Any]:
        """What an adapter's `step` gets as hp."""
        return dict(self.hp) if self.seed is None else {**self.hp, "stochastic_rounding": self.seed}

    @property
    def needs(self) -> frozenset[str]:
        """The options that an implementation must support for this case (see `protocol.OPTIONS`)."""
        hp, layers = self.hp, self.layers
        decay = "decoupled_weight_decay" if hp["decoupled_weight_decay"] else "weight_decay"
        wanted = {
            decay: hp["weight_decay"] != 0,
            "maximize": hp["maximize"],
            "cos_power": hp["cos_power"] != 2,
            "eps_inside_sqrt": not hp["eps_inside_sqrt"],
            "layer_axes": any(layer.axes is not None for layer in layers),
            "complex": any(layer.is_complex for layer in layers),
            "empty": any(layer.param.size == 0 for layer in layers),
            "many": len(layers) > 1,
        }
        return frozenset(option for option, is_wanted in wanted.items() if is_wanted)

    def with_hp(self, **changes: Any) -> "Case":
        return replace(self, hp={**self.hp, **changes})


def map_layer(change: Callable[[NumPyArray], NumPyArray], layer: LayerCase) -> LayerCase:
    """The layer with `change` applied to each of its four arrays."""
    return replace(layer, param=change(layer.param), grad=change(layer.grad), m=change(layer.m), v=change(layer.v))


def real_view(x: NumPyArray) -> NumPyArray:
    """A complex array of shape s as a real one of shape s + (2,); a real array unchanged."""
    if x.dtype.kind != "c":
        return x
    return np.ascontiguousarray(x).view(x.real.dtype).reshape(*x.shape, 2)


def copied(x: NumPyArray) -> NumPyArray:
    """A copy with the same strides. `x.copy(order="K")` would close the gaps in memory."""
    if x.flags.c_contiguous or x.flags.f_contiguous or min(x.strides) <= 0 or any(s % x.itemsize for s in x.strides):
        return x.copy(order="K")
    span = 1 + sum((n - 1) * (s // x.itemsize) for n, s in zip(x.shape, x.strides, strict=True))
    copy = np.lib.stride_tricks.as_strided(np.zeros(span, x.dtype), x.shape, x.strides)
    copy[...] = x
    return copy


def fresh_layer(param: NumPyArray, grad: NumPyArray, axes: tuple[int, ...] | None = None) -> LayerCase:
    """A layer before its first step: zero moments in the compute dtype."""
    name = str(real_view(param.reshape(-1)).dtype)
    zeros = np.zeros(real_view(param).shape, compute_format(name).numpy)
    return LayerCase(param, grad, zeros, zeros.copy(), axes)


def dtype_of(name: str, *, is_complex: bool = False) -> np.dtype[Any]:
    """The NumPy dtype of a parameter of this format, or of its complex twin."""
    if not is_complex:
        return FORMATS[name].numpy
    return np.dtype({"float32": np.complex64, "float64": np.complex128}[name])


def case_to_json(case: Case) -> dict[str, Any]:
    """The case as JSON: arrays as big-endian bit patterns, numbers as hexadecimal floats."""

    def array(x: NumPyArray) -> dict[str, Any]:
        real = real_view(x)
        bits = real.astype(real.dtype.newbyteorder(">"), copy=False).tobytes().hex(" ", real.itemsize)
        return {"shape": list(x.shape), "complex": x.dtype.kind == "c", "bits": bits}

    return {
        "dtype": case.dtype,
        "t": case.t,
        "hp": {k: x.hex() if isinstance(x, float) else x for k, x in case.hp.items()},
        "extra": case.extra,
        **({} if case.seed is None else {"seed": case.seed}),
        "layers": [
            {name: array(getattr(layer, name)) for name in ("param", "grad", "m", "v")}
            | {"axes": None if layer.axes is None else list(layer.axes)}
            for layer in case.layers
        ],
    }


def case_from_json(data: dict[str, Any]) -> Case:
    """The inverse of `case_to_json`, bit for bit."""
    compute = compute_format(data["dtype"]).name

    def moment(x: dict[str, Any]) -> NumPyArray:
        """A moment in the compute dtype, or in a narrower parameter's own: its groups of digits have that width."""
        width = len(x["bits"].partition(" ")[0]) // 2
        return array(x, data["dtype"] if width == dtype_of(data["dtype"]).itemsize else compute)

    def array(x: dict[str, Any], name: str) -> NumPyArray:
        dtype = dtype_of(name)
        bits = np.frombuffer(bytes.fromhex(x["bits"]), dtype.newbyteorder(">")).astype(dtype)
        if not x["complex"]:
            return bits.reshape(x["shape"])
        return bits.view(dtype_of(name, is_complex=True)).reshape(x["shape"])

    layers = tuple(
        LayerCase(
            array(layer["param"], data["dtype"]),
            array(layer["grad"], data["dtype"]),
            moment(layer["m"]),
            moment(layer["v"]),
            None if layer["axes"] is None else tuple(layer["axes"]),
        )
        for layer in data["layers"]
    )
    hp = {k: float.fromhex(x) if isinstance(x, str) else x for k, x in data["hp"].items()}
    return Case(data["dtype"], layers, data["t"], hp, data["extra"], data.get("seed"))
