"""torch.optim.Adam and AdamW: their loop, foreach, fused and capturable implementations."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from setadam_conformance.adapters.published import adam, adamw
from setadam_conformance.adapters.spec import TorchSpec
from setadam_conformance.protocol import LayerState, Native


class TorchOptimizer(TorchSpec, ABC):
    """A step of any torch.optim.Optimizer whose state has the moments of Adam."""

    first, second = "exp_avg", "exp_avg_sq"
    by_group = False  # the step count is in the parameter groups, and not in the state of each parameter

    @abstractmethod
    def optimizer(self, params: list[Any], hp: Mapping[str, Any]) -> Any:
        """The library's optimizer for these parameters."""

    def counter(self, t: int) -> Any:
        """The step count as the optimizer keeps it."""
        return self._xp.tensor(float(t), dtype=self._xp.float32, device=self._device)

    def beside(self, t: int, hp: Mapping[str, Any]) -> dict[str, Any]:
        """What the optimizer's state has beside the moments and the step count."""
        return {}

    def step(
        self,
        params: Sequence[Native],
        grads: Sequence[Native],
        states: Sequence[LayerState],
        hp: Mapping[str, Any],
        layer_axes: Sequence[tuple[int, ...] | None],
    ) -> tuple[list[Native], list[LayerState]]:
        torch = self._xp
        leaves = [torch.nn.Parameter(p, requires_grad=True) for p in params]
        optimizer = self.optimizer(leaves, hp)
        for p, grad, state in zip(leaves, grads, states, strict=True):
            p.grad = grad
            m, v = (torch.complex(x[..., 0], x[..., 1]) if p.is_complex() else x for x in state[:2])
            optimizer.state[p].update({self.first: m, self.second: v, **self.beside(state.t, hp)})
        for counts in optimizer.param_groups if self.by_group else map(optimizer.state.get, leaves):
            counts["step"] = self.counter(states[0].t)
        optimizer.step()
        return [p.detach() for p in leaves], [self._after(optimizer, p) for p in leaves]

    def _after(self, optimizer: Any, p: Any) -> LayerState:
        state = optimizer.state[p]
        m, v = (self._xp.view_as_real(x) if x.is_complex() else x for x in (state[self.first], state[self.second]))
        return LayerState(m, v, int((optimizer.param_groups[0] if self.by_group else state)["step"]))


_LOOP = {
    "devices": ("cpu", "cuda:0"),
    "in_place": True,
    "largest_t": 2**24,  # the count is a float32
    "moments": "parameter",
    "arithmetic": "parameter",
}
_FUSED = {**_LOOP, "arithmetic": "compute"}


class AdamLoop(TorchOptimizer):
    """torch.optim.Adam(foreach=False)."""

    name = "torch-adam:loop"
    framework = "torch-adam"
    capabilities = adam("weight_decay", "maximize", "complex", **_LOOP)
    path: ClassVar[dict[str, bool]] = {"foreach": False, "fused": False}
    kind = "Adam"

    def optimizer(self, params: list[Any], hp: Mapping[str, Any]) -> Any:
        kept = {name: hp[name] for name in ("lr", "eps", "weight_decay", "maximize")}
        return getattr(self._xp.optim, self.kind)(params, betas=(hp["beta1"], hp["beta2"]), **kept, **self.path)


class AdamForeach(AdamLoop):
    """torch.optim.Adam(foreach=True)."""

    name = "torch-adam:foreach"
    path: ClassVar[dict[str, bool]] = {"foreach": True}


class AdamFused(AdamLoop):
    """torch.optim.Adam(fused=True)."""

    name = "torch-adam:fused"
    capabilities = adam("weight_decay", "maximize", **_FUSED)
    path: ClassVar[dict[str, bool]] = {"fused": True}


class AdamCapturable(AdamLoop):
    """torch.optim.Adam(capturable=True), which forms 1 - β**t on the device, in float32."""

    name = "torch-adam:capturable"
    capabilities = replace(AdamLoop.capabilities, devices=("cuda:0",), corrections="cancelling")
    path: ClassVar[dict[str, bool]] = {"foreach": True, "capturable": True}

    def __init__(self, device: str = "cpu") -> None:
        if device == "cpu":
            raise RuntimeError(f"{self.name} needs a GPU: torch has no capturable optimizers on the CPU")
        super().__init__(device)


class AdamWLoop(AdamLoop):
    """torch.optim.AdamW(foreach=False)."""

    name = "torch-adamw:loop"
    framework = "torch-adamw"
    capabilities = adamw("decoupled_weight_decay", "maximize", "complex", **_LOOP)
    kind = "AdamW"


class AdamWForeach(AdamWLoop):
    """torch.optim.AdamW(foreach=True)."""

    name = "torch-adamw:foreach"
    path: ClassVar[dict[str, bool]] = {"foreach": True}


class AdamWFused(AdamWLoop):
    """torch.optim.AdamW(fused=True)."""

    name = "torch-adamw:fused"
    capabilities = adamw("decoupled_weight_decay", "maximize", **_FUSED)
    path: ClassVar[dict[str, bool]] = {"fused": True}


class AdamWCapturable(AdamCapturable):
    """torch.optim.AdamW(capturable=True)."""

    name = "torch-adamw:capturable"
    framework = "torch-adamw"
    capabilities = replace(AdamWLoop.capabilities, devices=("cuda:0",), corrections="cancelling")
    kind = "AdamW"
