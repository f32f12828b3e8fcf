"""SET-Adam written from the paper (arXiv 2302.01029, algorithm 1): plain torch, one loop."""

import math
from collections.abc import Callable
from typing import Any

import torch


class TextbookSETAdam(torch.optim.Optimizer):
    """The paper's algorithm for real float32 and float64 parameters; one tensor is one layer.

    Two things differ from the printed algorithm, and are needed to conform: γ is computed from v / max v (`_gamma`),
    and 1 - βᵗ with expm1 (`_one_minus_power`).
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        tau: float = 0.5,
    ) -> None:
        if not (math.isfinite(lr) and lr >= 0):
            raise ValueError(f"lr must be finite and ≥ 0, got {lr!r}")
        if not (math.isfinite(eps) and eps > 0):
            raise ValueError(f"eps must be finite and > 0, got {eps!r}")
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must be in [0, 1), got {betas!r}")
        if not 0 <= tau < 1:
            raise ValueError(f"tau must be in [0, 1), got {tau!r}")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "tau": tau})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            lr, (beta1, beta2), eps, tau = (group[key] for key in ("lr", "betas", "eps", "tau"))
            if any(eps < torch.finfo(p.dtype).tiny for p in group["params"]):
                raise ValueError(f"eps must not underflow in the parameters' dtype, got {eps!r}")
            for p in group["params"]:  # all of them, before any is updated
                if self.state[p].get("t", 0) < 0:
                    raise ValueError(f"t must be ≥ 0, got {self.state[p]['t']}")
                for name, x in {"grad": p.grad, **self.state[p]}.items():
                    if isinstance(x, torch.Tensor) and x.shape != p.shape:
                        raise ValueError(f"{name} must have shape {tuple(p.shape)}, got {tuple(x.shape)}")
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state.update(t=0, m=torch.zeros_like(p), v=torch.zeros_like(p))
                state["t"] += 1
                if p.numel() == 0:
                    continue
                m, v, t = state["m"], state["v"], state["t"]
                m.mul_(beta1).add_(p.grad, alpha=1 - beta1)
                v.mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)
                w = torch.sqrt(_gamma(v) * v / _one_minus_power(beta2, t) + eps)
                w = w - tau * w.min()
                p.sub_(lr / _one_minus_power(beta1, t) * m / w)
        return loss


def _gamma(v: torch.Tensor) -> torch.Tensor:
    """γ = (Σv)² / (d Σv²), from v divided by its maximum.

    The division does not change γ, but keeps its sums in range: for float32 gradients of size 1e-10, Σv² is 0, and for
    size 1e10 it is infinite. If v is all zero, γ may have any value.
    """
    largest = v.max()
    r = v / torch.where(largest > 0, largest, 1)
    s1, s2 = r.sum(), (r * r).sum()
    gamma = s1 / v.numel() * (s1 / torch.where(largest == 0, 1, s2))
    return gamma.clamp(max=1)  # rounding can exceed 1, though by less than the bound


def naive_gamma(v: torch.Tensor) -> torch.Tensor:
    """The formula as printed, for comparison: the tests check what docs/conformance.md says about it."""
    return v.sum() ** 2 / (v.numel() * (v * v).sum())


def _one_minus_power(beta: float, t: int) -> float:
    """1 - βᵗ without cancellation.

    The plain 1 - β**t is accurate enough for float32. In the first steps of float64, it loses as many bits as β has
    leading ones.
    """
    return 1.0 if beta == 0 else -math.expm1(t * math.log(beta))
