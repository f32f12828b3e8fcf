"""The face: SETAdam with its groups, options and state. It checks all that a step is given before anything changes, and
hands the work on: to the path of each layer, by way of the processes that share it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.optim import Optimizer

from setadam_core.layers import check_layer_axes
from setadam_torch import rounding, scaler
from setadam_torch.checks import in_bulk
from setadam_torch.checks.mesh import is_dtensor, waited
from setadam_torch.checks.options import (
    Group,
    Tensor,
    check_group,
    check_spelling,
    refuse_amsgrad,
    step_device,
    with_plain_betas,
    without_amsgrad,
)
from setadam_torch.checks.params import (
    STATE,
    check_moments,
    check_param,
    check_representable,
    check_whole,
    is_new,
    named,
    parameter_name,
)
from setadam_torch.checks.tensors import Tensors, moment_dtype
from setadam_torch.paths.choice import by_path, why_no_kernel
from setadam_torch.paths.columns import Columns
from setadam_torch.paths.cpu_kernel import at_once
from setadam_torch.paths.triton import at_once as on_gpu_at_once
from setadam_torch.sharding.step import step as step_shards
from setadam_torch.state import checkpoints
from setadam_torch.state.statistics import statistics

# torch's own check that a graph which captures a step is of capturable groups, by its name of today and its older one.
_check_capture: Any = getattr(
    Optimizer, "_accelerator_graph_capture_health_check", getattr(Optimizer, "_cuda_graph_capture_health_check", None)
)


class SETAdam(Optimizer):  # type: ignore[misc]  # torch is untyped where it is not installed
    """SET-Adam (arXiv 2302.01029): Adam with a smaller range of adaptive stepsizes in each layer.

    A layer is one parameter tensor, or with ``layer_axes`` one slice of it.

    Coming from Adam: start with half of its learning rate and the default ε, and change ε by factors of 100 where
    ``floor_share`` of `layer_statistics` is 0 or 1. One NaN in a gradient makes its whole layer NaN: skip such a step.

    Parameters
    ----------
    params : tensors, named tensors ``(name, tensor)``, or groups of them with their own options.
    lr : stepsize η ≥ 0, a number or a Tensor of one element. A compiled step recompiles once when a number changes.
    betas : decay rates (β₁, β₂) of the moments, in [0, 1): any sequence of two numbers.
    eps : ε > 0, in units of the gradient *squared*: it is added under the root, so that 1e-8 is about
        Adam's 1e-4.
    tau : τ in [0, 1): the share of a layer's smallest denominator that is subtracted from all its denominators.
    weight_decay, decoupled_weight_decay : λ, added to the gradient as λθ (as Adam), or shrinking θ by
        1 - ηλ (as AdamW).
    maximize : ascend.
    foreach : True for multi-tensor operations (on the CPU in blocks that fit the cache, where layers have no gaps),
        False for one tensor after the other, None to choose by device.
    fused : True for one call of a kernel for all layers, None for the kernel on the CPU if it is there, False for
        none. The kernel is Numba's on the CPU (extra ``fast``), Triton's on CUDA devices. Layers with gaps in memory,
        and tensors without memory of their own, take the other paths. Not with foreach.
    capturable : keep ``step`` on the parameter's device, so that a CUDA graph can hold the step.
    differentiable : let autograd run through the step. Not with foreach.
    layer_axes : the axes that make one layer of each parameter of the group, None for all: (1, 2) for
        experts stacked along axis 0.
    cos_power : n in γ = cosⁿ∠(v, 1). The paper's is 2; 0 switches down-scaling off.
    eps_inside_sqrt : False adds ε after the root, as Adam does.
    stochastic_rounding : False rounds bfloat16 and float16 parameters to nearest. A seed, an int in [0, 2³²) (True: 0),
        rounds them to one of their neighbours, at random and right on average (`setadam_core.rounding`), so that small
        steps are not lost. Random numbers belong to the seed, the step, the parameter's index in the optimizer, and
        the coordinate's place in the whole parameter: the same for each path, number of threads and of shards. Not
        with differentiable.
    amsgrad : must be False. Callers that spell out the options of torch.optim.Adam pass it.

    Raises
    ------
    TypeError, ValueError : an option or parameter that does not fit, by name.
    RuntimeError : fused=True without a kernel; in ``step``, a sparse gradient. Nothing has been updated then.

    Notes
    -----
    The state has the names of torch.optim.Adam's: ``exp_avg`` and ``exp_avg_sq`` (float32 for float16 and
    bfloat16 parameters, whose arithmetic is float32 and which are rounded once), and ``step``, a 0-d
    float64 tensor (float32 cannot count past 2²⁴). A state_dict of torch.optim.Adam or AdamW loads. Options that it
    lacks keep this optimizer's values. ``eps`` is the exception: it is loaded too, and means something else here.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        tau: float = 0.5,
        weight_decay: float = 0.0,
        *,
        decoupled_weight_decay: bool = False,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        layer_axes: Sequence[int] | None = None,
        cos_power: float = 2,
        eps_inside_sqrt: bool = True,
        stochastic_rounding: bool | int = False,
        amsgrad: bool = False,
    ) -> None:
        refuse_amsgrad(amsgrad)
        # All options are in the groups and none on self: pickle and deepcopy drop other attributes.
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "tau": tau,
            "weight_decay": weight_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
            "maximize": maximize,
            "foreach": foreach,
            "fused": fused,
            "capturable": capturable,
            "differentiable": differentiable,
            "layer_axes": layer_axes,
            "cos_power": cos_power,
            "eps_inside_sqrt": eps_inside_sqrt,
            "stochastic_rounding": stochastic_rounding,
        }
        check_group(defaults)
        super().__init__(params, with_plain_betas(defaults))

    def add_param_group(self, param_group: Group) -> None:
        """Add a group, with its own values of any option. An error leaves the optimizer as it was."""
        if isinstance(param_group, dict):
            param_group = with_plain_betas(without_amsgrad(param_group))
            check_spelling(param_group, self.defaults)
            check_group({**self.defaults, **param_group})
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            for i, param in enumerate(group["params"]):
                try:
                    check_whole(param, group)
                    if not torch.nn.parameter.is_lazy(param):  # which has no axes yet
                        check_layer_axes(group["layer_axes"], param.ndim)
                    _check_kernel(param, group)
                except (TypeError, ValueError, RuntimeError) as error:
                    raise named(error, group, len(self.param_groups) - 1, i) from None
        except Exception:
            self.param_groups.pop()
            raise

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step on all parameters that have a gradient; closure, if given, computes the loss."""
        if not torch.compiler.is_compiling():
            _check_capture(self)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        # torch's decorator for this breaks the graph of a compiled step on purpose; this does not.
        with torch.set_grad_enabled(any(group["differentiable"] for group in self.param_groups)):
            self._update()
        return loss

    def _update(self) -> None:
        compiling, scaled = torch.compiler.is_compiling(), scaler.left_on(self)
        if not compiling and self._at_once(scaled):
            return
        work: list[tuple[Group, Columns]] = []
        places: list[Sequence[int]] = []
        if compiling:
            for group in self.param_groups:
                columns = Columns([], [], [], [], [])
                places.append(self._init_group(group, *columns))
                work.append((group, columns))
        else:
            checked = [self._checked(group) for group in self.param_groups]  # all, before anything is updated
            for group, (params, grads) in zip(self.param_groups, checked, strict=True):
                work.append((group, self._columns(group, params, list(map(waited, grads)))))
                places.append(self._places(group))
        divides = scaled is not None and scaled.grad_scale is not None
        rounding.around(work, places, lambda wide: self._step(wide, scaled), divides)

    def _step(self, work: list[tuple[Group, Columns]], scaled: scaler.Scaler | None) -> None:
        for group, columns in step_shards(work):
            if scaled is not None:
                scaler.step(group, columns, scaled)
                continue
            for path, part in by_path(group, columns).items():
                path.step(group, part)

    def _at_once(self, scaled: scaler.Scaler | None) -> bool:
        """Whether a kernel took all layers, each of them in its usual form."""
        if rounding.asked(self.param_groups):  # a kernel rounds to nearest
            return False
        if scaled is None and at_once.step(self.param_groups, self.state):
            return True
        return on_gpu_at_once.step(self.param_groups, self.state, *(scaled or (None, None)))

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Tells torch.amp.GradScaler to leave scaling and skipping to `step`, by its two attributes. The
        scaler does both itself where there are DTensors, of which a process sees a part.
        """
        fused = all(group["fused"] for group in self.param_groups)
        return fused and not any(is_dtensor(param) for group in self.param_groups for param in group["params"])

    def _init_group(
        self,
        group: Group,
        params: Tensors,
        grads: Tensors,
        exp_avgs: Tensors,
        exp_avg_sqs: Tensors,
        steps: Tensors,
    ) -> tuple[int, ...]:
        """Check a group, collect what has a gradient, and return the places of these parameters. By its name,
        torch.compile runs this eagerly.
        """
        found = self._columns(group, *self._checked(group))
        for column, xs in zip((params, grads, exp_avgs, exp_avg_sqs, steps), found, strict=True):
            column += xs
        return self._places(group)

    def _places(self, group: Group) -> tuple[int, ...]:
        """The places, among all parameters, of those of a group that have a gradient."""
        first = 0
        for other in self.param_groups:
            if other is group:
                break
            first += len(other["params"])
        return tuple([first + i for i, param in enumerate(group["params"]) if param.grad is not None])

    def _checked(self, group: Group) -> tuple[Tensors, Tensors]:
        """The parameters of a group that have a gradient, and these, all checked. Changes nothing."""
        hp = check_group(group)
        found = [(param, grad) for param in group["params"] if (grad := param.grad) is not None]
        params, grads = [param for param, _ in found], [grad for _, grad in found]
        states = [self.state.get(param, {}) for param in params]
        if in_bulk.pass_all_checks(group, params, grads, states):
            _check_kernel(params[0], group)
        else:
            self._check_each(group)
        check_representable(params, hp)
        return params, grads

    def _columns(self, group: Group, params: Tensors, grads: Tensors) -> Columns:
        """Parameters, gradients and their states. A state that is not there yet is made."""
        states = [self.state[param] for param in params]
        for param, state in zip(params, states, strict=True):
            if is_new(state):
                zeros = {"dtype": moment_dtype(param), "memory_format": torch.preserve_format}
                state["step"] = torch.zeros((), dtype=torch.float64, device=step_device(param, group))
                state["exp_avg"] = torch.zeros_like(param, **zeros)
                state["exp_avg_sq"] = torch.zeros_like(param, **zeros)
        return Columns(params, grads, *([state[key] for state in states] for key in STATE))

    def _check_each(self, group: Group) -> None:
        """Raise, by the parameter's name, what is wrong with it, its gradient or its state."""
        index = next(i for i, other in enumerate(self.param_groups) if other is group)
        for i, param in enumerate(group["params"]):
            if param.grad is None:
                continue
            try:
                check_param(param, param.grad, group)
                _check_kernel(param, group)
                if not is_new(state := self.state.get(param, {})):
                    check_moments(param, state, group)
            except (TypeError, ValueError, KeyError, RuntimeError) as error:
                raise named(error, group, index, i) from None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state_dict of SETAdam, or of torch.optim.Adam or AdamW to switch in the middle of a
        run. Moments keep float32 for 16-bit parameters. A state that does not fit changes nothing.
        """
        hook = self.register_load_state_dict_pre_hook(checkpoints.keep_dtypes)
        try:
            super().load_state_dict(state_dict)
        finally:
            hook.remove()

    def __setstate__(self, state: dict[str, Any]) -> None:
        checkpoints.complete(state, self.__dict__.get("param_groups"), self.__dict__.get("defaults"))
        super().__setstate__(state)

    def layer_statistics(self) -> dict[str, dict[str, Any]]:
        """Statistics of the adaptive stepsizes, computed from the state when asked for.

        Returns
        -------
        dict : for each parameter that has taken a step, by its name (or "group.index" where
            parameters are not named): ``gamma`` (γ in [0, 1]), ``w_min`` (min w, in units of the
            gradient), ``floor_share`` (the share of coordinates with w ≤ √2 √ε), and ``stepsize_min``,
            ``_mean``, ``_std``, ``_max`` of 1/w̃. Python floats; with ``layer_axes`` that leave several
            layers, tensors of one value a layer.

        Notes
        -----
        Where parameters are sharded (DTensors) this is a collective, of a few words a layer: every
        process must call it.
        """
        asked = [
            (parameter_name(group, g, i), (param, self.state[param], group))
            for g, group in enumerate(self.param_groups)
            for i, param in enumerate(group["params"])
            if param.numel() > 0 and self.state.get(param) and self.state[param]["step"] > 0
        ]
        return dict(zip((name for name, _ in asked), statistics([x for _, x in asked]), strict=True))


def _check_kernel(param: Tensor, group: Group) -> None:
    if not group["fused"] or param.device.type == "meta":  # which device it will be on is not known yet
        return
    if (reason := why_no_kernel(param.device.type, param.dtype)) is not None:
        raise RuntimeError(f"fused=True cannot be had: {reason}")
