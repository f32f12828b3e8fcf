"""The state in the neutral form of `setadam_core.interchange`: to other frameworks, and from them."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from setadam_core.interchange import Form, check_names, check_state, pack, unpack
from setadam_core.spec import State
from setadam_torch.checks.options import step_device
from setadam_torch.checks.tensors import Tensor, compute_dtype, dtype_name, moment_dtype, real


def to_neutral(optimizer: Any, names: Sequence[str] | None = None) -> Form:
    """The moments and step counts of a SETAdam, for a SETAdam of any framework to go on from.

    Parameters
    ----------
    optimizer :
        A SETAdam.
    names :
        One for each parameter, in the order of the groups. By default the optimizer's own
        (``SETAdam(model.named_parameters())``), else "0", "1", …, as those of a list in other frameworks.

    Returns
    -------
    dict of NumPy arrays : copies on the CPU, see `setadam_core.interchange`. A parameter that has had no
        gradient yet is at step 0.

    Raises
    ------
    ValueError : another number of names than of parameters, or a name given twice.
    """
    states = {}
    for name, (param, _) in _named(optimizer, names).items():
        state = optimizer.state.get(param)
        if state:
            m, v = (real(state[key]).detach().cpu().numpy() for key in ("exp_avg", "exp_avg_sq"))
            states[name] = State(m, v, int(state["step"]))
        else:
            zeros = torch.zeros(real(param).shape, dtype=compute_dtype(param), device="cpu").numpy()
            states[name] = State(zeros, zeros, 0)
    return pack(states)


def load_neutral(optimizer: Any, form: Mapping[str, Any], names: Sequence[str] | None = None) -> None:
    """Go on from a state in neutral form: as `to_neutral` or `SETAdam.state_dict` of NumPy or CuPy makes it.

    Options stay as they are: parameters and hyperparameters do not travel in the form. names: as in
    `to_neutral`. Raises KeyError for a parameter without a state or the reverse, ValueError and
    TypeError for a shape or dtype that does not fit; nothing has changed then.
    """
    states, _ = unpack(form)
    targets = _named(optimizer, names)
    check_names(states, targets)
    for name, (param, _) in targets.items():
        check_state(name, states[name], real(param).shape, dtype_name(compute_dtype(param)))
    loaded = {param: _entry(param, states[name], group) for name, (param, group) in targets.items()}
    optimizer.state.update(loaded)


def _named(optimizer: Any, names: Sequence[str] | None) -> dict[str, tuple[Tensor, Any]]:
    """Each parameter and its group by name."""
    pairs = [(param, group) for group in optimizer.param_groups for param in group["params"]]
    if names is None:
        own = [name for group in optimizer.param_groups for name in group.get("param_names", ())]
        names = own if len(own) == len(pairs) else [str(i) for i in range(len(pairs))]
    if len(names) != len(pairs) or len(set(names)) != len(names):
        raise ValueError(f"names must be {len(pairs)} different ones, one a parameter, got {list(names)}")
    return dict(zip(names, pairs, strict=True))


def _entry(param: Tensor, state: State, group: Any) -> dict[str, Any]:
    def moment(x: Any) -> Tensor:
        new = torch.zeros_like(param, dtype=moment_dtype(param), memory_format=torch.preserve_format)
        real(new).copy_(torch.from_numpy(x.copy()))
        return new

    step = torch.tensor(float(state.t), dtype=torch.float64, device=step_device(param, group))
    return {"step": step, "exp_avg": moment(state.m), "exp_avg_sq": moment(state.v)}
