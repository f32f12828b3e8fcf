"""What torch's `load_state_dict` gets wrong for us: it casts moments to the parameter's dtype."""

from typing import Any

import torch

from setadam_torch._layers import Group, Tensor, check_moments, moment_dtype, named, step_device

_MOMENTS = ("exp_avg", "exp_avg_sq")
_IMPLEMENTATION = ("foreach", "fused", "capturable", "differentiable")


class _Kept:
    """A tensor that torch's casting does not see, since it looks for tensors."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def keep_dtypes(_: Any, state_dict: dict[str, Any]) -> dict[str, Any]:
    """A load_state_dict pre-hook: hide the moments from the cast. `complete` takes them out again."""
    hidden = {
        key: {name: _Kept(x) if name in _MOMENTS and isinstance(x, torch.Tensor) else x for name, x in entry.items()}
        for key, entry in state_dict["state"].items()
    }
    return {**state_dict, "state": hidden}


def complete(state: dict[str, Any], groups: list[Group] | None, defaults: Group | None) -> None:
    """Make a loaded or unpickled state ours: the options that it lacks, moments in their dtype, `step`
    where resuming needs it. Raises before the optimizer has changed.
    """
    defaults = state.get("defaults", defaults or {})
    for i, group in enumerate(state["param_groups"]):
        own = groups[i] if groups is not None and i < len(groups) else defaults
        foreign = "tau" not in group  # of torch.optim.Adam or AdamW
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
                    check_moments(param, entry)
                except (TypeError, ValueError, KeyError, RuntimeError) as error:
                    raise named(error, group, i, j) from None


def _complete_entry(param: Tensor, entry: dict[str, Any], group: Group) -> None:
    for name in _MOMENTS:
        if isinstance(entry.get(name), _Kept):
            kept = entry[name].tensor
            entry[name] = kept.to(device=param.device, dtype=moment_dtype(param), copy=True)
    if "step" in entry:
        device = step_device(param, group)
        entry["step"] = torch.as_tensor(entry["step"], dtype=torch.float64, device=device).clone()
