"""The options of a group: their values, their spelling, and what they ask for."""

from collections.abc import Iterable
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

import torch

from setadam_core.hyperparameters import NUMBERS, SWITCHES, Hyperparameters, from_options
from setadam_core.rounding import FORMATS, check_seed

Tensor = Any  # torch.Tensor; torch is optional for the type checker
Group = dict[str, Any]

_NAMES = ("betas", *NUMBERS, *SWITCHES)


def check_group(group: Group) -> Hyperparameters:
    """Check every option of a group, before anything is made of it."""
    hp, lr = hyperparameters(group), group["lr"]
    if isinstance(lr, torch.Tensor) and lr.device.type == "cpu":  # reading one on a device would wait for it
        hyperparameters({**group, "lr": lr.item()})
    for name in ("foreach", "fused"):
        if group[name] and group["differentiable"]:
            raise ValueError(f"{name} must be False or None with differentiable=True, got {name}=True")
    if check_seed(group["stochastic_rounding"]) is not None and group["differentiable"]:
        raise ValueError("stochastic_rounding must be False with differentiable=True, since it has no derivative")
    if group["foreach"] and group["fused"]:
        raise ValueError("foreach must be False or None with fused=True, got foreach=True")
    return hp


def hyperparameters(group: Group) -> Hyperparameters:
    """`setadam_core.hyperparameters.from_options`, remembered; lr may be a Tensor of one element."""
    options = {name: group[name] for name in _NAMES} | {"lr": learning_rate(group)}
    try:
        return _remembered(*options.values())
    except TypeError:  # a value that cannot be hashed, or one that is refused
        return _made(*options.values())


def _made(*options: Any) -> Hyperparameters:
    return from_options(dict(zip(_NAMES, options, strict=True)), arrays=("lr",))


_remembered = lru_cache(maxsize=64, typed=True)(_made)  # typed: True equals 1, and is not a stepsize


def learning_rate(group: Group) -> Any:
    """A group's lr, a number or a 0-d Tensor. ValueError for a Tensor of several elements."""
    lr = group["lr"]
    if not isinstance(lr, torch.Tensor) or lr.ndim == 0:
        return lr
    if lr.numel() != 1:
        raise ValueError(f"lr must be a number or a Tensor of one element, got shape {tuple(lr.shape)}")
    return lr.reshape(())


def with_plain_betas(group: Group) -> Group:
    """The group with betas as Python floats, if they came as an array, whose arithmetic rounds in its own dtype."""
    betas = group.get("betas", (0.0, 0.0))
    if isinstance(betas, tuple | list) and {type(beta) for beta in betas} <= {float, int, torch.Tensor}:
        return group
    try:
        return {**group, "betas": tuple(map(float, betas))}
    except (TypeError, ValueError):
        return group  # `check_group` refuses it


def leaves_choice_to_kernel(group: Group) -> bool:
    """Whether a group's options give its layers to a kernel, where there is one."""
    if group["fused"] is not None:
        return bool(group["fused"])
    return group["foreach"] is None and not group["differentiable"] and not group["capturable"]


def asks_for_single(group: Group) -> bool:
    """Whether a group's options ask for one tensor after the other."""
    one_by_one = group["differentiable"] or (group["foreach"] is not None and not group["foreach"])
    return bool(one_by_one) and not leaves_choice_to_kernel(group)


def is_rounded_stochastically(param: Tensor, group: Group) -> bool:
    """Whether a parameter has a 16-bit dtype, and its group a seed."""
    return check_seed(group["stochastic_rounding"]) is not None and str(param.dtype).removeprefix("torch.") in FORMATS


def step_device(param: Tensor, group: Group) -> Any:
    """Where the step count is kept: with the parameter, for kernels and graphs that read it there, or on the CPU."""
    return param.device if group["capturable"] or group["fused"] else torch.device("cpu")


def refuse_amsgrad(amsgrad: Any) -> None:
    """ValueError unless amsgrad is False. Callers that spell out Adam's options pass it."""
    if amsgrad:
        raise ValueError(
            f"amsgrad must be False, got {amsgrad!r}: SET-Adam has no counterpart, since γ is taken of v itself "
            "and not of its maximum so far"
        )


def without_amsgrad(group: Group) -> Group:
    """The group without Adam's option, which must be False."""
    refuse_amsgrad(group.get("amsgrad", False))
    return {name: value for name, value in group.items() if name != "amsgrad"}


def check_spelling(group: Group, options: Iterable[str]) -> None:
    """TypeError for a key that is nearly the name of an option. A group may hold any other key: schedulers and
    trainers keep numbers of their own there (``initial_lr``, ``lr_scale``, ``name``).
    """
    known = {_bare(name): name for name in options}
    for key in group:
        if not isinstance(key, str) or key in known.values() or key in ("params", "param_names"):
            continue
        alike = [name for name in known if abs(len(name) - len(_bare(key))) <= 1]  # no_weight_decay is another word
        if near := get_close_matches(_bare(key), alike, n=1, cutoff=0.8):
            raise TypeError(f"a group has no option {key!r}: did you mean {known[near[0]]!r}?")


def _bare(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())
