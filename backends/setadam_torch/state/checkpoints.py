"""What torch's `load_state_dict` gets wrong for us: it casts moments to the parameter's dtype."""

import warnings
from typing import Any

import torch

from setadam_torch.checks.options import Group, step_device
from setadam_torch.checks.params import STATE, check_moments, is_new, named
from setadam_torch.checks.tensors import Tensor, moment_dtype

_MOMENTS = ("exp_avg", "exp_avg_sq")
_IMPLEMENTATION = ("foreach", "fused", "capturable", "differentiable")


class _Kept:
    """Hides a tensor from torch's casting, which looks for tensors."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def keep_dtypes(_: Any, state_dict: dict[str, Any]) -> dict[str, Any]:
    """A load_state_dict pre-hook: hide the state's tensors from the cast. `complete` takes copies of them."""
    hidden = {
        key: {name: _Kept(x) if name in STATE and isinstance(x, torch.Tensor) else x for name, x in entry.items()}
        for key, entry in state_dict["state"].items()
    }
    return {**state_dict, "state": hidden}


def complete(state: dict[str, Any], groups: list[Group] | None, defaults: Group | None) -> None:
    """Complete a loaded or unpickled state: the options that it lacks, moments in their dtype, `step`
    on the device where a step reads it. Raises before the optimizer has changed.

    Unpickled tensors stay the same memory, shared with other processes if it was before.
    """
    defaults = state.get("defaults", defaults or {})
    for i, group in enumerate(state.get("param_groups", ())):
        own = groups[i] if groups is not None and i < len(groups) else defaults
        foreign = "tau" not in group  # of torch.optim.Adam or AdamW
        if foreign:
            _warn_of_losses(i, group, own)
        for name in defaults:
            if name not in group or (foreign and name in _IMPLEMENTATION):
                group[name] = own.get(name, defaults[name])
        group.pop("amsgrad", None)
        for j, param in enumerate(group["params"]):
            if state["state"].get(param):
                entry = state["state"][param]
                entry.pop("max_exp_avg_sq", None)
                _complete_entry(param, entry, group)
                try:
                    if not is_new(entry):
                        check_moments(param, entry, group)
                except (TypeError, ValueError, KeyError, RuntimeError) as error:
                    raise named(error, group, i, j) from None


def _warn_of_losses(index: int, group: Group, own: Group) -> None:
    """Warn of what a state_dict of Adam leaves open, and of what is dropped."""
    if "decoupled_weight_decay" not in group and group.get("weight_decay") and not own["decoupled_weight_decay"]:
        warnings.warn(
            f"group {index} comes with weight_decay={group['weight_decay']} and does not say of which kind, as no "
            "state_dict of torch.optim.Adam or AdamW before torch 2.7 does: it is taken as "
            "decoupled_weight_decay=False, this optimizer's setting. For AdamW's, make the optimizer with True",
            stacklevel=5,
        )
    if group.get("amsgrad"):
        warnings.warn(
            f"group {index} comes with amsgrad=True, which has no counterpart in SET-Adam: max_exp_avg_sq is dropped",
            stacklevel=5,
        )


def _complete_entry(param: Tensor, entry: dict[str, Any], group: Group) -> None:
    for name in _MOMENTS:
        if isinstance(entry.get(name), _Kept):
            kept = entry[name].tensor
            entry[name] = kept.to(device=param.device, dtype=moment_dtype(param), copy=True)
    if isinstance(step := entry.get("step"), _Kept):
        entry["step"] = step.tensor.to(device=step_device(param, group), dtype=torch.float64, copy=True)
    elif step is not None:  # a number, as torch before 1.12 kept it; a tensor stays the same
        entry["step"] = torch.as_tensor(step, dtype=torch.float64, device=step_device(param, group))
