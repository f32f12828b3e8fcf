"""One step of layers that a checker of memory accesses should see: python -m benchmarks.gpu.one_step triton|cupy

Empty, of one coordinate, of one more than a block, and a matrix with a tail; aligned as allocators align, and as views
that begin 4 bytes (or, where a coordinate has more, one coordinate) later. Both must give the same bits.
"""

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np

SHAPES = [(0,), (1,), (4097,), (300, 50)]
DTYPES = {"triton": ("float64", "float32", "bfloat16", "float16"), "cupy": ("float64", "float32", "float16")}
SHIFT = 4  # bytes


def shift_of(itemsize: int) -> int:
    """Coordinates by which a view begins later."""
    return max(1, SHIFT // itemsize)


def torch_step(device: str, dtype: str, shifted: bool) -> list[bytes]:
    """The bits of parameters and moments after a step of SETAdam(fused=True)."""
    import torch

    from setadam_torch import SETAdam

    def placed(x: Any) -> Any:
        shift = shift_of(x.element_size()) if shifted else 0
        room = torch.zeros(x.numel() + shift, dtype=x.dtype, device=device)
        view = room[shift:].view(x.shape)
        view.copy_(x)
        return view

    generator = torch.Generator().manual_seed(0)
    params, states = [], []
    kind, compute = getattr(torch, dtype), torch.float64 if dtype == "float64" else torch.float32
    for shape in SHAPES:
        param = torch.nn.Parameter(placed(torch.randn(shape, generator=generator).to(kind)))
        param.grad = placed(torch.randn(shape, generator=generator).to(kind))
        m, v = (placed(torch.rand(shape, generator=generator).to(compute)) for _ in "mv")
        step = torch.ones((), dtype=torch.float64, device=device)
        params.append(param)
        states.append({"exp_avg": m, "exp_avg_sq": v, "step": step})
    optimizer = SETAdam(params, fused=True, weight_decay=0.1)
    optimizer.state.update(zip(params, states, strict=True))
    optimizer.step()
    if device != "cpu":
        torch.cuda.synchronize()
    tensors = [x.detach() for p, s in zip(params, states, strict=True) for x in (p, s["exp_avg"], s["exp_avg_sq"])]
    return [x.contiguous().view(-1).view(torch.uint8).cpu().numpy().tobytes() for x in tensors]


def cupy_step(device: str, dtype: str, shifted: bool) -> list[bytes]:
    """The bits of parameters and moments after a step of setadam_cupy's SETAdam."""
    import cupy

    from setadam_cupy import SETAdam

    def placed(x: Any) -> Any:
        shift = shift_of(x.itemsize) if shifted else 0
        view = cupy.zeros(x.size + shift, x.dtype)[shift:].reshape(x.shape)
        view[...] = cupy.asarray(x)
        return view

    rng = np.random.default_rng(0)
    params, grads = ([placed(rng.standard_normal(s).astype(dtype)) for s in SHAPES] for _ in "pg")
    optimizer = SETAdam(params, weight_decay=0.1)
    optimizer.step(grads)
    cupy.cuda.Device().synchronize()
    return [cupy.asnumpy(x).tobytes() for x in params]


STEPS: dict[str, Callable[[str, str, bool], list[bytes]]] = {"triton": torch_step, "cupy": cupy_step}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kernels", choices=STEPS)
    parser.add_argument("--device", default="cuda:0")
    asked = parser.parse_args()
    for dtype in DTYPES[asked.kernels]:
        aligned, shifted = (STEPS[asked.kernels](asked.device, dtype, x) for x in (False, True))
        if aligned != shifted:
            raise SystemExit(f"{dtype}: views that begin {SHIFT} bytes later do not give the same bits")
        print(f"{dtype}: {len(SHAPES)} layers, aligned and {SHIFT} bytes later")


if __name__ == "__main__":
    main()
