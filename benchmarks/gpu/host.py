"""The host's time for a step of SETAdam(fused=True) on a CUDA device, without one: python -m benchmarks.gpu.host

Tensors of six coordinates on the CPU are in the place of the device's, and a launch does nothing. So this is the Python
that comes before and between the launches: the optimizer's own wrapper, options, checks, addresses, the plan. What
Triton and the driver take for three launches comes on top, and only a device can show it. Beside it is torch's fused
Adam on the same tensors: its Python alone, with its operations doing nothing, and in all, with them.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.sets import MODELS
from setadam_torch import SETAdam
from setadam_torch.checks import in_bulk, memory, params
from setadam_torch.paths import triton
from setadam_torch.paths.cpu_kernel import at_once as on_cpu
from setadam_torch.paths.triton import at_once
from setadam_torch.paths.triton.path import Triton

LAYERS = len(MODELS["GPT-2 small"])
WARM_UP = 20  # steps
GRADIENTS = 100  # sets of gradients that lie at different places


class Swallowed:
    """In the place of the module of kernels: any attribute is a kernel, of which any launch does nothing."""

    def __getattr__(self, name: str) -> Any:
        if name == "DTYPES":
            return dict.fromkeys(("float64", "float32", "bfloat16", "float16"))
        return self

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        return lambda *args, **kwargs: None


@contextmanager
def as_on_a_device() -> Iterator[None]:
    """SETAdam(fused=True) takes the Triton path with tensors on the CPU, and reads no step count."""

    def why_not(cls: type, group: Any, layer: Any) -> str | None:
        return None if group["fused"] and memory.hold_values(layer) else "not asked for, or no memory"

    with (
        patch.object(triton, "kernels", Swallowed(), create=True),
        patch.object(Triton, "why_not", classmethod(why_not)),
        patch.object(on_cpu, "step", lambda *_: False),
        patch.object(in_bulk, "can_be_read", lambda counts: False),
        patch.object(params, "can_be_read", lambda counts: False),
    ):
        yield


def made(optimizer: Any) -> tuple[Any, list[Any]]:
    """An optimizer of LAYERS small layers, with gradients."""
    layers = [torch.randn(2, 3).requires_grad_() for _ in range(LAYERS)]
    for p in layers:
        p.grad = torch.randn(2, 3)
    return optimizer(layers, fused=True), layers


def microseconds(
    step: Callable[[], Any], repeats: int, before: Callable[[], Any] = lambda: None
) -> tuple[float, float]:
    """The median and the least time of a step. before: done before each, and not counted."""
    spent = []
    for _ in range(WARM_UP + repeats):
        before()
        start = time.perf_counter()
        step()
        spent.append(1e6 * (time.perf_counter() - start))
    spent = sorted(spent[WARM_UP:])
    return spent[len(spent) // 2], spent[0]


def measured(repeats: int) -> dict[str, tuple[float, float]]:
    """Median and least microseconds of each kind of step."""
    found = {}
    with as_on_a_device():
        for loop, numba in (("DLPack's loop", True), ("without Numba", False)):
            optimizer, layers = made(SETAdam)
            sets, turn = [[torch.ones(2, 3) for _ in layers] for _ in range(GRADIENTS)], count()

            def move(layers: Any = layers, sets: Any = sets, turn: Any = turn) -> None:
                for p, g in zip(layers, sets[next(turn) % GRADIENTS], strict=True):
                    p.grad = g

            with patch.object(at_once, "has_numba", at_once.has_numba if numba else lambda: False):
                found[f"SETAdam, {loop}"] = microseconds(optimizer.step, repeats)
                found[f"SETAdam, {loop}, gradients elsewhere in each step"] = microseconds(
                    optimizer.step, repeats, move
                )
            general, _ = made(SETAdam)
            with patch.object(at_once, "step", lambda *_: False):
                found["SETAdam, the general way"] = microseconds(general.step, repeats)
    adam, _ = made(torch.optim.Adam)
    found["torch's Adam, in all"] = microseconds(adam.step, repeats)
    nothing = patch.multiple(torch, _fused_adam_=lambda *_, **__: None, _foreach_add_=lambda *_, **__: None)
    with nothing:
        found["torch's Adam, its Python alone"] = microseconds(adam.step, repeats)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=300)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    print(f"{LAYERS} layers, {repeats} steps of each, µs: the median, the least")
    for name, (median, least) in measured(repeats).items():
        print(f"{median:7.0f} {least:7.0f}  {name}")


if __name__ == "__main__":
    main()
