"""SET-Adam in place on plain arrays: what `setadam_numpy.SETAdam` and `setadam_cupy.SETAdam` share.

State, its saving, and the checks before a step are here; a backend adds how its arrays lie in memory and
how a step is computed. Parameters are known by name, as `containers.flatten` makes them.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from operator import is_not
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import device

from setadam_core import interchange, statistics
from setadam_core.aliasing import Footprint, check_separate
from setadam_core.containers import flatten
from setadam_core.groups import (
    Group,
    are_groups,
    check_params,
    check_representable,
    check_writeable,
    hyperparameters,
    layer_of,
    named,
)
from setadam_core.hyperparameters import Hyperparameters
from setadam_core.layers import COMPUTE_DTYPE, Array, Layer, as_array, compute_dtype_name
from setadam_core.spec import State

_NEW = State(None, None, 0)


class Task(NamedTuple):
    """One parameter's part of a step, checked. Arrays are real views (a complex one of shape s is real of
    shape s + (2,)); theta and grad in the parameter's dtype, m and v in the compute dtype.
    """

    theta: Array
    grad: Array
    m: Array
    v: Array
    t: int  # counts this step
    hp: Hyperparameters
    layer: Layer  # of the real views
    group: Group


class InPlaceOptimizer(ABC):
    """SET-Adam (arXiv 2302.01029): Adam whose adaptive stepsizes are held in a smaller range, layer by
    layer. A layer is one array, or with ``layer_axes`` one slice of it. Arrays are updated in place.

    Parameters
    ----------
    params : list, tuple or dict of arrays, nested at will; or a list of groups, dicts that hold such a
        container under "params" and, beside it, their own values of any option below. An array's name
        is its path, "layers.0.weight"; in a group whose params are a list, its index follows the group's.
        float16, float32, float64, complex64 or complex128 (and bfloat16 in NumPy), of any strides.
    lr : stepsize η ≥ 0; ``opt.lr = …`` sets it between steps.
    betas : decay rates (β1, β2) of the moments, in [0, 1).
    eps : ε > 0, in units of the gradient *squared*: it stands under the root, so that 1e-8 is about
        Adam's 1e-4.
    tau : τ in [0, 1): the share of a layer's smallest denominator that is taken off.
    weight_decay, decoupled_weight_decay : λ, added to the gradient as λθ (as Adam), or shrinking θ by
        1 - ηλ (as AdamW).
    maximize : ascend.
    fused : the compiled kernel: True demands it, None takes it where it is there, False never.
    layer_axes : the axes that make one layer of each array of the group, None for all: (1, 2) for
        matrices stacked along axis 0.
    cos_power : n in γ = cosⁿ∠(v, 1); the paper's is 2, 0 switches down-scaling off.
    eps_inside_sqrt : False adds ε after the root, as Adam.

    Attributes
    ----------
    param_groups : list of dicts, as `torch.optim`'s: "params" (arrays by name) and the options, which may be
        changed between steps.
    state : for each name ``exp_avg`` and ``exp_avg_sq`` (of the real view, in the compute dtype: float32 for
        16-bit parameters, which are rounded once) and ``step``, an int.

    Raises
    ------
    TypeError, ValueError : an option or array that does not fit, by name: among others an integer or
        read-only array, or two that share memory.
    RuntimeError : fused=True where there is no kernel.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        tau: float = 0.5,
        weight_decay: float = 0.0,
        *,
        decoupled_weight_decay: bool = False,
        maximize: bool = False,
        fused: bool | None = None,
        layer_axes: Sequence[int] | None = None,
        cos_power: float = 2,
        eps_inside_sqrt: bool = True,
    ) -> None:
        self.defaults: Group = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "tau": tau,
            "weight_decay": weight_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
            "maximize": maximize,
            "fused": fused,
            "layer_axes": layer_axes,
            "cos_power": cos_power,
            "eps_inside_sqrt": eps_inside_sqrt,
        }
        self._check_options(self.defaults)
        self.param_groups: list[Group] = []
        self.state: dict[str, dict[str, Any]] = {}
        self._forget()
        if are_groups(params):
            for index, group in enumerate(params):
                self._add(group, index)
        else:
            self._add({"params": params}, None)
        if not self.state:
            raise ValueError("params must hold at least one array, got none")

    @property
    def lr(self) -> float:
        """The stepsize of all groups. ValueError if they have several: see ``param_groups`` then."""
        first, *others = (group["lr"] for group in self.param_groups)
        if any(other != first for other in others):
            raise ValueError(f"the groups have several lr, {[first, *others]}: use param_groups[i]['lr']")
        return first  # type: ignore[no-any-return]

    @lr.setter
    def lr(self, value: float) -> None:
        _ = self.lr  # several are not to be lost by accident
        hyperparameters({**self.defaults, "lr": value})
        for group in self.param_groups:
            group["lr"] = value

    @property
    def params(self) -> dict[str, Array]:
        """All parameters by name."""
        return {name: param for group in self.param_groups for name, param in group["params"].items()}

    def add_param_group(self, group: Group) -> None:
        """Add a group, with its own values of any option. An error leaves the optimizer as it was."""
        self._add(group, len(self.param_groups))

    def step(self, grads: Any) -> None:
        """One step of all parameters, in place. All is checked before anything is changed.

        Parameters
        ----------
        grads : gradients, never written: a container in which each has its parameter's name, so one of the
            parameters' own form, or a flat dict by name. Of its parameter's shape, dtype and device.

        Raises
        ------
        KeyError : a gradient that is missing, or that belongs to no parameter.
        TypeError, ValueError : one that does not fit, or that shares memory with another layer's parameter; a
            parameter that has become read-only; an option or state that was changed to what is not allowed.
        """
        given = flatten(grads, "grad", lambda x: self._as_leaf(as_array(x)))
        params = self.params
        for name in params:
            if name not in given:
                raise KeyError(f"grads must have one for each param, and that of {name!r} is missing")
        for name in given:
            if name not in params:
                raise KeyError(f"grads must have one for each param, and there is no param {name!r}")
        states = self._check_memory(params)
        tasks = []
        for group in self.param_groups:
            hp = self._check_options(group)
            self._check_fused(group)
            tasks += [
                self._task(name, param, given[name], states[name], hp, group) for name, param in group["params"].items()
            ]
        self._update([task for task in tasks if task.theta.size])
        for name, task in zip(params, tasks, strict=True):
            self.state[name]["step"] = task.t

    def state_dict(self) -> interchange.Form:
        """The state and the groups' options, copied: the flat dict of NumPy arrays that
        `setadam_core.interchange` documents. ``numpy.savez(file, **opt.state_dict())`` keeps it bit for bit, and
        so does ``safetensors.numpy.save_file``. The parameters are not in it.
        """
        states = {}
        for name in self.params:
            m, v, t = self._state(name)
            states[name] = State(self._to_numpy(m), self._to_numpy(v), t)
        groups = [{k: x for k, x in group.items() if k != "params"} for group in self.param_groups]
        return interchange.pack(states, groups)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load what `state_dict` returned, or the neutral form of any other framework's state. One without
        options of groups leaves the options as they are. An error leaves the optimizer as it was.

        Raises
        ------
        KeyError : a parameter without a state, or a state without a parameter.
        TypeError, ValueError : a moment of another shape or dtype, an option out of range, another number of
            groups.
        """
        states, groups = interchange.unpack(state_dict)
        interchange.check_names(states, self.state)
        params = self.params
        for name, param in params.items():
            interchange.check_state(name, states[name], self.state[name]["exp_avg"].shape, compute_dtype_name(param))
        if groups and len(groups) != len(self.param_groups):
            raise ValueError(f"state_dict must have {len(self.param_groups)} groups, got {len(groups)}")
        absent: Group = {"fused": None, "layer_axes": None}  # what the form leaves out where it is None
        merged = [group | absent | new for group, new in zip(self.param_groups, groups, strict=False)]
        for group in merged:
            self._check_options(group)
            check_params(group, self._dtypes)
            self._check_fused(group)
        loaded = {name: self._fresh_state(param, states[name]) for name, param in params.items()}
        for group, new in zip(self.param_groups, merged, strict=False):
            group.update(new)
        self.state.update(loaded)

    def layer_statistics(self) -> dict[str, dict[str, Any]]:
        """`setadam_core.statistics.layer_statistics` of each parameter that has taken a step, by its name."""
        found = {}
        for group in self.param_groups:
            hp = hyperparameters(group)
            for name, param in group["params"].items():
                _, v, t = self._state(name)
                if param.size and t > 0:
                    found[name] = statistics.layer_statistics(v, t, layer_of(param, group["layer_axes"]), hp)
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {"defaults": self.defaults, "param_groups": self.param_groups, "state": self.state}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def _forget(self) -> None:
        """Drop what was derived from the arrays: it does not outlive a copy, a pickle, a new group."""
        self._written: list[Array] = []  # what steps write, when it was last checked
        self._footprint = Footprint({}, self._bounds)

    def _add(self, group: Any, index: int | None) -> None:
        params = named(group, index, self._as_leaf)
        new: Group = {**self.defaults, **group, "params": params}
        self._check_options(new)
        check_params(new, self._dtypes)
        self._check_fused(new)
        for name in params:
            if name in self.state:
                raise ValueError(f"param {name!r} is there twice, in two groups")
        written = {f"param {name!r}": param for name, param in (self.params | params).items()}
        for name, param in params.items():
            self._check_aligned("param", name, param)
        check_separate(written, self._bounds, self._share)
        self.state |= {name: self._fresh_state(param) for name, param in params.items()}
        self.param_groups.append(new)
        self._forget()

    def _check_options(self, group: Group) -> Hyperparameters:
        unknown = [name for name in group if name not in self.defaults and name != "params"]
        if unknown:
            raise TypeError(f"there is no option {unknown[0]!r}, only {', '.join(self.defaults)}")
        if group["fused"] is not None and not isinstance(group["fused"], bool | np.bool_):
            raise TypeError(f"fused must be None, True or False, got {group['fused']!r}")
        return hyperparameters(group)

    def _check_fused(self, group: Group) -> None:
        if group["fused"]:
            for name, param in group["params"].items():
                if reason := self._why_not_fused(param):
                    raise RuntimeError(f"fused=True for param {name!r}: {reason}")

    def _task(self, name: str, param: Array, grad: Array, state: State, hp: Hyperparameters, group: Group) -> Task:
        if grad.shape != param.shape:
            raise ValueError(f"grad {name!r} must have its param's shape {param.shape}, got {grad.shape}")
        if grad.dtype != param.dtype:
            raise TypeError(f"grad {name!r} must have its param's dtype {param.dtype}, got {grad.dtype}")
        if device(grad) != device(param):
            raise ValueError(f"grad {name!r} must be on its param's device {device(param)}, got {device(grad)}")
        self._check_aligned("grad", name, grad)
        for other in self._footprint.near(grad):
            if other == f"param {name!r}":
                grad = self._apart(grad, param)
            elif self._share(grad, self._footprint.arrays[other]):
                raise ValueError(f"grad {name!r} shares memory with {other}, which the same step changes")
        layer, theta = layer_of(param, group["layer_axes"]), self._real(param)
        for what, x in (("param", param), ("exp_avg of", state.m), ("exp_avg_sq of", state.v)):
            check_writeable(what, name, x)
        check_representable(hp, layer)
        interchange.check_state(name, state, theta.shape, layer.dtype.__name__)
        return Task(theta, self._real(grad), state.m, state.v, state.t + 1, hp, layer, group)

    def _apart(self, grad: Array, param: Array) -> Array:
        """A gradient as a step may read it, where its memory is near its own parameter's: the parameter itself,
        element by element, is read before it is written; what overlaps it in another way is copied.
        """
        same = self._bounds(grad) == self._bounds(param) and grad.strides == param.strides
        return grad if same or not self._share(grad, param) else grad.copy()

    def _check_memory(self, params: Mapping[str, Array]) -> dict[str, State]:
        """The states by name. TypeError or ValueError if what a step writes are no arrays of this backend, or not
        separate ones; arrays that it has found good it does not look at again.
        """
        entries = [self._entry(name) for name in params]
        written = [*params.values(), *(m for m, _, _ in entries), *(v for _, v, _ in entries)]
        if len(written) != len(self._written) or any(map(is_not, written, self._written)):
            self._footprint, self._written = self._checked(params), written
        return {name: self._state(name) for name in params}

    def _checked(self, params: Mapping[str, Array]) -> Footprint:
        found: dict[str, Array] = {}
        for name, param in params.items():
            if self._as_leaf(param) is None:
                raise TypeError(f"param {name!r} must be an array, got {type(param).__name__}")
            m, v, _ = self._state(name)
            for field, x in (("exp_avg", m), ("exp_avg_sq", v)):
                if device(x) != device(param):
                    raise ValueError(
                        f"{field} of {name!r} must be on its param's device {device(param)}, got {device(x)}"
                    )
            for what, x in (("param", param), ("exp_avg of", m), ("exp_avg_sq of", v)):
                self._check_aligned(what, name, x)
                found[f"{what} {name!r}"] = x
        for group in self.param_groups:
            check_params(group, self._dtypes)
        return check_separate(found, self._bounds, self._share)

    def _entry(self, name: str) -> tuple[Any, Any, Any]:
        """A parameter's state as it was left or put there."""
        try:
            entry = self.state[name]
            return entry["exp_avg"], entry["exp_avg_sq"], entry["step"]
        except KeyError as error:
            needed = "exp_avg, exp_avg_sq and step"
            raise KeyError(f"the state of {name!r} must have {needed}, but {error} is missing") from None

    def _state(self, name: str) -> State:
        m, v, t = self._entry(name)
        return State(
            self._moment("exp_avg", name, m), self._moment("exp_avg_sq", name, v), interchange.check_step(name, t)
        )

    def _moment(self, field: str, name: str, x: Any) -> Array:
        leaf = self._as_leaf(x)
        if leaf is None:
            raise TypeError(f"{field} of {name!r} must be an array, got {type(x).__name__}")
        return leaf

    def _fresh_state(self, param: Array, state: State = _NEW) -> dict[str, Any]:
        theta, dtype = self._real(param), compute_dtype_name(param)
        return {
            "step": state.t,
            "exp_avg": self._like(theta, dtype, state.m),
            "exp_avg_sq": self._like(theta, dtype, state.v),
        }

    def _real(self, x: Array) -> Array:
        return self._view_as_real(x) if x.dtype.kind == "c" else x

    # What a backend adds.

    _dtypes: Collection[str] = tuple(COMPUTE_DTYPE)  # of parameters

    def _check_aligned(self, what: str, name: str, x: Array) -> None:  # noqa: B027  # most backends take any
        """Raise ValueError, naming the array, for an address that this backend cannot compute at."""

    @abstractmethod
    def _update(self, tasks: list[Task]) -> None:
        """Update theta, m and v of all tasks, in place."""

    @abstractmethod
    def _why_not_fused(self, param: Array) -> str | None:
        """None where there is a compiled kernel for the parameter's dtype; else what is missing."""

    @abstractmethod
    def _as_leaf(self, x: Any) -> Array | None:
        """The array that x is; None for what is no array of this backend."""

    @abstractmethod
    def _view_as_real(self, x: Array) -> Array:
        """A complex array of shape s as a real one of shape s + (2,) in the same memory."""

    @abstractmethod
    def _bounds(self, x: Array) -> tuple[int, int]:
        """The address of the first byte, and of the one after the last."""

    @abstractmethod
    def _share(self, a: Array, b: Array) -> bool:
        """Whether two arrays whose bounds overlap have an element in common; True if it cannot be told."""

    @abstractmethod
    def _like(self, theta: Array, dtype: str, values: Any | None) -> Array:
        """A new array of theta's shape and device, packed in its order of axes, with the values of a NumPy
        array or zeros.
        """

    @abstractmethod
    def _to_numpy(self, x: Array) -> Any:
        """The same bits as a NumPy array."""


# Python's own message of a wrong call names the function; its users know it as their class's.
for _function in vars(InPlaceOptimizer).values():
    if isinstance(_function, FunctionType):
        _function.__qualname__ = f"SETAdam.{_function.__name__}"
