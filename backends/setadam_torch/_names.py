"""Names of options: those of Adam that have no counterpart here, and those that are nearly right."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from setadam_torch._layers import Group


def refuse_amsgrad(amsgrad: Any) -> None:
    """ValueError unless amsgrad is False, as callers of torch.optim.Adam may spell out."""
    if amsgrad:
        raise ValueError(
            f"amsgrad must be False, got {amsgrad!r}: SET-Adam has no counterpart, since γ is taken of v itself "
            "and not of its maximum so far"
        )


def without_amsgrad(group: Group) -> Group:
    """The group without Adam's option, which must be False there."""
    refuse_amsgrad(group.get("amsgrad", False))
    return {name: value for name, value in group.items() if name != "amsgrad"}


def check_spelling(group: Group, options: Iterable[str]) -> None:
    """TypeError for a key that is nearly the name of an option. A group may hold any other key: schedulers and
    trainers keep numbers of their own there (``initial_lr``, ``lr_scale``, ``name``).
    """
    known = {_plain(name): name for name in options}
    for key in group:
        if not isinstance(key, str) or key in known.values() or key in ("params", "param_names"):
            continue
        alike = [name for name in known if abs(len(name) - len(_plain(key))) <= 1]  # no_weight_decay is another word
        if near := get_close_matches(_plain(key), alike, n=1, cutoff=0.8):
            raise TypeError(f"a group has no option {key!r}: did you mean {known[near[0]]!r}?")


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())
