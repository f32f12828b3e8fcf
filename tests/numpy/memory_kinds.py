"""A program: one step of a parameter whose arrays lie in memory in each of many ways, reported case by case.

    python memory_kinds.py PATH [FIRST]

Each case is named before it is tried, so that of a process that ends the caller knows in which, and can start the
next one behind it. A case is "right" (the oracle's bound holds, and no byte beside the arrays changed), "refused" (and
nothing changed), or what is wrong with it.
"""

import copy
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from setadam_conformance.cases.case import Case, LayerCase
from setadam_conformance.judging.judge import judge
from setadam_conformance.protocol import LayerState
from setadam_numpy import SETAdam
from setadam_numpy.conformance import NumPyPlain

ROLES = ("param", "grad", "exp_avg", "exp_avg_sq")
DTYPES = ("float32", "complex64", "float16")
FOLDER = Path(tempfile.mkdtemp())


class Noted(np.ndarray):
    """A subclass with the arithmetic of its base."""


def held(x, view):
    """A view of a larger memory, with x's values."""
    view[...] = x
    return view


def at(x, offset):
    memory = np.zeros(x.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 16 + offset
    return held(x, memory[start : start + x.nbytes].view(x.dtype).reshape(x.shape))


def stride_0(x):
    return np.lib.stride_tricks.as_strided(x[:1].copy(), x.shape, (0, *x.strides[1:]), writeable=True)


def windows(x):
    """Rows that overlap by all but one element."""
    memory = np.lib.stride_tricks.sliding_window_view(np.arange(1.0, 32.0).astype(x.dtype), x.shape[-1], writeable=True)
    return memory[: x.size // x.shape[-1]].reshape(x.shape[0], -1, x.shape[-1])[:, 0] if x.ndim == 2 else memory[:1]


def read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


def mapped(x, mode):
    path = FOLDER / "mapped"
    path.write_bytes(x.tobytes())
    return np.memmap(path, x.dtype, mode, shape=x.shape)


# Of an array's values, an array that lies in another way.
KINDS = {
    "C": lambda x: x.copy(order="C"),
    "F": lambda x: x.copy(order="F"),
    "transposed": lambda x: np.moveaxis(np.moveaxis(x, 0, -1).copy(), -1, 0),
    "sliced": lambda x: held(
        x, np.zeros([2 * n + 1 for n in x.shape], x.dtype)[tuple(slice(1, None, 2) for _ in x.shape)]
    ),
    "rows of a matrix": lambda x: held(x, np.zeros((9, *x.shape[1:]), x.dtype)[2 : 2 + len(x)]),
    "backwards": lambda x: held(x, np.flip(np.zeros(x.shape, x.dtype))),
    "rows backwards": lambda x: held(x, np.zeros(x.shape, x.dtype)[::-1]),
    "stride 0": stride_0,
    "windows": windows,
    "other bytes": lambda x: x.astype(x.dtype.newbyteorder("S")),
    "misaligned": lambda x: at(x, 1),
    "half aligned": lambda x: at(x, x.dtype.alignment // 2),
    "read-only": read_only,
    "memmap": lambda x: mapped(x, "r+"),
    "memmap, read-only": lambda x: mapped(x, "r"),
    "memmap, copy on write": lambda x: mapped(x, "c"),
    "subclass": lambda x: x.copy().view(Noted),
    "recarray": lambda x: x.copy().view(np.recarray),
    "matrix": lambda x: x.copy().view(np.matrix) if x.ndim == 2 else x.copy(),
    "masked": np.ma.array,
    "fields of a structure": lambda x: held(x, np.zeros(x.shape, [("a", "u1"), ("x", x.dtype)])["x"]),
    "0-d": lambda x: x.copy(),
    "empty": lambda x: x.copy(),
}
SHAPES = {"0-d": (), "empty": (0, 3)}


def values(role, shape, dtype):
    """The same values in each row, so that stride 0 can have them; v is not negative."""
    rng = np.random.default_rng(ROLES.index(role))
    row = rng.standard_normal((*shape[1:], 2)) * (0.5 if "exp" in role else 1)
    x = np.broadcast_to(row, (*shape, 2)).copy() if shape else row.copy()
    x = x * x if role == "exp_avg_sq" else x
    if "exp" in role:
        return x.astype(np.float32) if dtype == "complex64" else x[..., 0].astype(np.float32)
    return (x[..., 0] + 1j * x[..., 1]).astype(dtype) if dtype == "complex64" else x[..., 0].astype(dtype)


def memory(x):
    """All bytes of the memory behind an array, including gaps."""
    while isinstance(x, np.ndarray) and isinstance(x.base, np.ndarray):
        x = x.base
    return np.asarray(x).tobytes()


def outcome(kind, role, dtype, path):
    shape = SHAPES.get(kind, (3, 4))
    plain = {name: np.asarray(values(name, shape, dtype)) for name in ROLES}
    arrays = dict(plain)
    arrays[role] = KINDS[kind](plain[role])
    plain = {name: np.array(x, dtype=plain[name].dtype) for name, x in arrays.items()}
    other = np.ones(3, plain["param"].dtype)
    groups = [{"params": {"before": other, "w": arrays["param"], "after": other.copy()}}]
    try:
        optimizer = SETAdam(groups, lr=0.1, fused=path == "fused")
    except (TypeError, ValueError):
        return "refused" if role == "param" else f"param refused for {role}"
    optimizer.state["w"] = {"step": 3, "exp_avg": arrays["exp_avg"], "exp_avg_sq": arrays["exp_avg_sq"]}
    grads = {"before": other.copy(), "w": arrays["grad"], "after": other.copy()}
    every = [*optimizer.params.values(), *(s[k] for s in optimizer.state.values() for k in ROLES[2:]), arrays["grad"]]
    whole = memory(arrays[role])
    before = [memory(x) for x in every], copy.deepcopy([s["step"] for s in optimizer.state.values()])
    try:
        optimizer.step(grads)
    except (TypeError, ValueError) as error:
        after = [memory(x) for x in every], [s["step"] for s in optimizer.state.values()]
        if "'w'" not in str(error):
            return f"refused without its name: {error}"
        return "refused" if after == before else f"refused after something changed: {error}"
    if memory(arrays["grad"]) != before[0][-1]:
        return "the gradient was written"
    state, real = optimizer.state["w"], "float32" if dtype == "complex64" else dtype
    layer = LayerCase(plain["param"], plain["grad"], plain["exp_avg"], plain["exp_avg_sq"])
    hp = {**Case(real, (layer,)).hp, "lr": 0.1}
    new = LayerState(np.array(state["exp_avg"]), np.array(state["exp_avg_sq"]), state["step"])
    verdict = judge(Case(real, (layer,), 3, hp), [np.array(optimizer.params["w"])], [new], NumPyPlain.capabilities)
    if not verdict.conforms or state["step"] != 4:
        return f"wrong: {verdict.parted_at} {verdict.scores}"
    if role != "grad":
        arrays[role][...] = plain[role]
        if memory(arrays[role]) != whole:
            return "its gaps were written"
    return "right"


CASES = [(kind, role, dtype) for kind in KINDS for role in ROLES for dtype in DTYPES]

if __name__ == "__main__":
    chosen, first = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0
    for index in range(first, len(CASES)):
        print(json.dumps([index, "started"]), flush=True)
        print(json.dumps([index, outcome(*CASES[index], chosen)]), flush=True)
