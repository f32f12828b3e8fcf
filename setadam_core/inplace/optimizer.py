"""The optimizer that `setadam_numpy.SETAdam` and `setadam_cupy.SETAdam` are: options, groups, state and its saving.

A backend adds how its arrays lie in memory, as a `Memory`, and how a step is computed, as ``_update``. Parameters are
known by name, as `containers.flatten` makes it.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import FunctionType
from typing import Any

import numpy as np

from setadam_core import interchange
from setadam_core.hyperparameters import Hyperparameters, from_options
from setadam_core.inplace.aliasing import check_separate
from setadam_core.inplace.checks import Checks
from setadam_core.inplace.containers import flatten
from setadam_core.inplace.groups import Group, are_groups, arrays_of, check_params, layer_of, named
from setadam_core.inplace.layout import Task
from setadam_core.inplace.memory import Memory
from setadam_core.inplace.rounding import Rounded, batches, is_rounded
from setadam_core.inplace.state import fresh_state, read_state
from setadam_core.layers import Array, as_array, compute_dtype_name
from setadam_core.rounding import Rounding, check_seed
from setadam_core.show import statistics
from setadam_core.spec import State


class InPlaceOptimizer(ABC):
    """SET-Adam (arXiv 2302.01029): Adam whose adaptive stepsizes are held in a smaller range, layer by
    layer. A layer is one array, or with ``layer_axes`` one slice of it. Arrays are updated in place.

    Coming from Adam: start with half of its learning rate and the default ε, and change ε by factors of 100 where
    ``floor_share`` of `layer_statistics` is 0 or 1. One NaN in a gradient makes its whole layer NaN: skip such a step.

    Parameters
    ----------
    params : list, tuple or dict of arrays, which may be nested; or a list of groups. A group is a dict with such a
        container under "params", and its own values of any of the options below. An array's name is its path,
        "layers.0.weight"; in a group whose params are a list, the group's index comes first.
        Dtypes are float16, float32, float64, complex64 and complex128 (and bfloat16 in NumPy), with any strides.
    lr : stepsize η ≥ 0; ``opt.lr = …`` sets it between steps.
    betas : decay rates (β₁, β₂) of the moments, in [0, 1).
    eps : ε > 0, in units of the gradient *squared*. It is added under the root, so 1e-8 is about Adam's 1e-4.
    tau : τ in [0, 1): the share of a layer's smallest denominator that is subtracted.
    weight_decay, decoupled_weight_decay : λ, added to the gradient as λθ (as in Adam), or shrinking θ by a factor
        1 - ηλ (as in AdamW).
    maximize : ascend.
    fused : whether to use the compiled kernel: True requires it, None uses it if it is available, False never does.
    layer_axes : the axes that make one layer of each array of the group, None for all: (1, 2) for
        matrices stacked along axis 0.
    cos_power : n in γ = cosⁿ∠(v, 1). The paper's is 2; 0 switches down-scaling off.
    eps_inside_sqrt : False adds ε after the root, as Adam does.
    stochastic_rounding : False rounds a 16-bit parameter to nearest. A seed, an int in [0, 2³²) (True: 0), rounds it to
        one of its neighbours, at random and right on average, see `setadam_core.rounding`. The random numbers belong to
        the seed, the step, the parameter's place among all parameters, and the coordinate's place in it.

    Attributes
    ----------
    param_groups : list of dicts, as in `torch.optim`: "params" (arrays by name) and the options, which you may
        change between steps.
    state : for each name ``exp_avg`` and ``exp_avg_sq`` (of the real view, in the compute dtype: float32 for
        16-bit parameters, which are rounded once) and ``step``, an int.

    Raises
    ------
    TypeError, ValueError : an option or array that is not allowed, by name: among others an integer or
        read-only array, or two arrays that share memory.
    RuntimeError : fused=True and there is no kernel.
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
        stochastic_rounding: bool | int = False,
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
            "stochastic_rounding": stochastic_rounding,
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
        """The stepsize of all groups. ValueError if they differ; use ``param_groups`` then."""
        first, *others = (group["lr"] for group in self.param_groups)
        if any(other != first for other in others):
            raise ValueError(f"the groups have different lr, {[first, *others]}: use param_groups[i]['lr']")
        return first  # type: ignore[no-any-return]

    @lr.setter
    def lr(self, value: float) -> None:
        _ = self.lr  # an error if they differ: setting one would lose them
        from_options({**self.defaults, "lr": value})
        for group in self.param_groups:
            group["lr"] = value

    @property
    def params(self) -> dict[str, Array]:
        """All parameters by name."""
        return arrays_of(self.param_groups)

    def add_param_group(self, group: Group) -> None:
        """Add a group, with its own values of any option. After an error, the optimizer is unchanged."""
        self._add(group, len(self.param_groups))

    def step(self, grads: Any) -> None:
        """One step of all parameters, in place. All checks are made before anything is changed.

        Parameters
        ----------
        grads : the gradients, which are not written. A container of the same structure as the parameters, or a flat
            dict by name. Each gradient has the shape, dtype and device of its parameter.

        Raises
        ------
        KeyError : a gradient is missing, or has no parameter.
        TypeError, ValueError : a gradient has a wrong shape, dtype or device, or shares memory with another layer's
            parameter; a parameter has become read-only; an option or state was changed to a value that is not allowed.
        """
        if self._step_again(grads):
            return
        given = flatten(grads, "grad", lambda x: self._memory.as_leaf(as_array(x)))
        params = self.params
        for name in params:
            if name not in given:
                raise KeyError(f"grads must have one for each param, but the one for {name!r} is missing")
        for name in given:
            if name not in params:
                raise KeyError(f"grads must have one for each param, but there is no param {name!r}")
        states = self._checks.states(self.param_groups, self.state)
        tasks = []
        for group in self.param_groups:
            hp = self._check_options(group)
            self._check_fused(group)
            tasks += [
                self._checks.task(name, param, given[name], states[name], hp, group)
                for name, param in group["params"].items()
            ]
        self._update_and_round(tasks)
        for name, task in zip(params, tasks, strict=True):
            self.state[name]["step"] = task.t
        self._remember(grads, list(given), tasks)

    def _update_and_round(self, tasks: list[Task]) -> None:
        """Update theta, m and v of all parameters, given in the order in which they count as layers."""
        seeds = [check_seed(group["stochastic_rounding"]) for group in self.param_groups for _ in group["params"]]
        nearest, rounded = [], []
        for layer, (task, seed) in enumerate(zip(tasks, seeds, strict=True)):
            if seed is not None and is_rounded(task):
                rounded.append(Rounded(task, Rounding(seed, layer)))
            else:
                nearest.append(task)
        self._update([task for task in nearest if task.theta.size])
        for batch in batches([each for each in rounded if each.task.theta.size]):
            wide = [each.widened() for each in batch]
            self._update(wide)
            for each, task in zip(batch, wide, strict=True):
                each.store(task.theta, self._memory.block)

    def state_dict(self) -> interchange.Form:
        """A copy of the state and of the groups' options, without the parameters: the flat dict of NumPy arrays that
        `setadam_core.interchange` documents. ``numpy.savez(file, **opt.state_dict())`` and
        ``safetensors.numpy.save_file`` save it bit for bit.
        """
        states = {}
        for name in self.params:
            m, v, t = read_state(self.state, name, self._memory)
            states[name] = State(self._memory.to_numpy(m), self._memory.to_numpy(v), t)
        groups = [{k: x for k, x in group.items() if k != "params"} for group in self.param_groups]
        return interchange.pack(states, groups)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load what `state_dict` returned, or the neutral form of another framework's state. A form without the
        options of groups does not change the options. After an error, the optimizer is unchanged.

        Raises
        ------
        KeyError : a parameter without a state, or a state without a parameter.
        TypeError, ValueError : a moment with a wrong shape or dtype, an option out of range, a wrong number of groups.
        """
        states, groups = interchange.unpack(state_dict)
        interchange.check_names(states, self.state)
        params = self.params
        for name, param in params.items():
            interchange.check_state(name, states[name], self.state[name]["exp_avg"].shape, compute_dtype_name(param))
        if groups and len(groups) != len(self.param_groups):
            raise ValueError(f"state_dict must have {len(self.param_groups)} groups, got {len(groups)}")
        absent: Group = {"fused": None, "layer_axes": None}  # the form does not have these if they are None
        merged = [group | absent | new for group, new in zip(self.param_groups, groups, strict=False)]
        for group in merged:
            self._check_options(group)
            check_params(group, self._memory.dtypes)
            self._check_fused(group)
        loaded = {name: fresh_state(param, self._memory, states[name]) for name, param in params.items()}
        for group, new in zip(self.param_groups, merged, strict=False):
            group.update(new)
        self.state.update(loaded)

    def layer_statistics(self) -> dict[str, dict[str, Any]]:
        """`setadam_core.show.statistics.layer_statistics` of each parameter that has taken a step, by its name."""
        found = {}
        for group in self.param_groups:
            hp = from_options(group)
            for name, param in group["params"].items():
                _, v, t = read_state(self.state, name, self._memory)
                if param.size and t > 0:
                    found[name] = statistics.layer_statistics(v, t, layer_of(param, group["layer_axes"]), hp)
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {"defaults": self.defaults, "param_groups": self.param_groups, "state": self.state}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def _forget(self) -> None:
        """Drop what was derived from the arrays, after a copy, an unpickling or a new group."""
        self._checks = Checks(self._memory)

    def _add(self, group: Any, index: int | None) -> None:
        memory = self._memory
        params = named(group, index, memory.as_leaf)
        new: Group = {**self.defaults, **group, "params": params}
        self._check_options(new)
        check_params(new, memory.dtypes)
        self._check_fused(new)
        for name in params:
            if name in self.state:
                raise ValueError(f"param {name!r} occurs twice, in two groups")
        written = {f"param {name!r}": param for name, param in (self.params | params).items()}
        for name, param in params.items():
            memory.check_aligned("param", name, param)
        check_separate(written, memory.bounds, memory.share)
        self.state |= {name: fresh_state(param, memory) for name, param in params.items()}
        self.param_groups.append(new)
        self._forget()

    def _check_options(self, group: Group) -> Hyperparameters:
        unknown = [name for name in group if name not in self.defaults and name != "params"]
        if unknown:
            raise TypeError(f"there is no option {unknown[0]!r}, only {', '.join(self.defaults)}")
        if group["fused"] is not None and not isinstance(group["fused"], bool | np.bool_):
            raise TypeError(f"fused must be None, True or False, got {group['fused']!r}")
        check_seed(group["stochastic_rounding"])
        return from_options(group)

    def _check_fused(self, group: Group) -> None:
        if group["fused"]:
            for name, param in group["params"].items():
                if reason := self._why_not_fused(param):
                    raise RuntimeError(f"fused=True for param {name!r}: {reason}")

    # What a backend adds.

    _memory: Memory

    @abstractmethod
    def _update(self, tasks: list[Task]) -> None:
        """Update theta, m and v of all tasks, in place."""

    def _step_again(self, grads: Any) -> bool:
        """Take a step whose checks need not be made again, since what they rest on is as it was at the last full step.
        False if it cannot be told; then nothing was changed.
        """
        return False

    def _remember(self, grads: Any, names: list[str], tasks: list[Task]) -> None:  # noqa: B027  # for `_step_again`
        """Called after a full step. names: of the gradients, in their container's order; tasks: of all parameters."""

    @abstractmethod
    def _why_not_fused(self, param: Array) -> str | None:
        """None if there is a compiled kernel for the parameter's dtype; else what is missing."""


# Python's message for a wrong call names the function. Users know it as a method of their class, SETAdam.
for _function in vars(InPlaceOptimizer).values():
    if isinstance(_function, FunctionType):
        _function.__qualname__ = f"SETAdam.{_function.__name__}"
