"""Adams of other libraries for torch: timm, torch-optimi, pytorch_optimizer."""

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from importlib.machinery import ModuleSpec
from math import expm1, log
from types import ModuleType
from typing import Any

from setadam_conformance.adapters.published import adam, adamw
from setadam_conformance.adapters.published.torch_optim import TorchOptimizer

_NARROW: dict[str, Any] = {"in_place": True, "moments": "parameter", "arithmetic": "parameter"}


class TimmAdamW(TorchOptimizer):
    """timm's AdamW of its own, `timm.optim.adamw.AdamWLegacy`."""

    name = "timm-adamw"
    framework = "timm-adamw"
    capabilities = adamw("decoupled_weight_decay", **_NARROW, largest_t=2**24)

    def __init__(self, device: str = "cpu") -> None:
        super().__init__(device)
        self._make = _timm_module("adamw").AdamWLegacy

    def optimizer(self, params: list[Any], hp: Mapping[str, Any]) -> Any:
        betas = hp["beta1"], hp["beta2"]
        return self._make(params, lr=hp["lr"], betas=betas, eps=hp["eps"], weight_decay=hp["weight_decay"])


def _timm_module(name: str) -> ModuleType:
    """A module of timm.optim, without timm's models, which need torchvision."""
    spec = importlib.util.find_spec("timm")
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError("timm is not installed")
    for package, folder in (("timm", ""), ("timm.optim", "/optim")):
        if package not in sys.modules:
            bare = importlib.util.module_from_spec(ModuleSpec(package, None, is_package=True))
            bare.__path__ = [location + folder for location in spec.submodule_search_locations]
            sys.modules[package] = bare
    return importlib.import_module(f"timm.optim.{name}")


class OptimiAdam(TorchOptimizer):
    """torch-optimi's Adam, whose state holds corrected moments."""

    name = "torch-optimi"
    framework = "torch-optimi"
    by_group = True
    capabilities = adam("weight_decay", **_NARROW, largest_t=2**31 - 1, corrected_moments=True)

    def __init__(self, device: str = "cpu") -> None:
        super().__init__(device)
        import optimi

        self._make = optimi.Adam

    def optimizer(self, params: list[Any], hp: Mapping[str, Any]) -> Any:
        kept = {name: hp[name] for name in ("lr", "eps", "weight_decay")}
        betas = hp["beta1"], hp["beta2"]
        made = self._make(params, betas=betas, **kept, kahan_sum=False, foreach=False, triton=False)
        made.param_groups[0]["setup"] = True  # it would begin at step 0
        return made

    def counter(self, t: int) -> Any:
        return self._xp.tensor(t, dtype=self._xp.int32)

    def beside(self, t: int, hp: Mapping[str, Any]) -> dict[str, Any]:
        return {"kahan_comp": None}


class QHAdam(TorchOptimizer):
    """pytorch_optimizer's QHAdam with ν = (1, 1), which is Adam: its state holds corrected moments."""

    name = "pytorch-optimizer-qhadam"
    framework = "pytorch-optimizer-qhadam"
    by_group = True
    capabilities = adam("weight_decay", "maximize", **_NARROW, corrected_moments=True)

    def __init__(self, device: str = "cpu") -> None:
        super().__init__(device)
        import pytorch_optimizer

        self._library = pytorch_optimizer

    def optimizer(self, params: list[Any], hp: Mapping[str, Any]) -> Any:
        kept = {name: hp[name] for name in ("lr", "eps", "weight_decay", "maximize")}
        betas = hp["beta1"], hp["beta2"]
        return self._library.QHAdam(params, betas=betas, nus=(1.0, 1.0), weight_decouple=False, **kept)

    def counter(self, t: int) -> Any:
        return t

    def beside(self, t: int, hp: Mapping[str, Any]) -> dict[str, Any]:
        """Σβⁱ over the steps taken, which weighs the next gradient."""
        weights = {name: -expm1(t * log(hp[name])) / (1 - hp[name]) if hp[name] else float(t > 0) for name in _BETAS}
        return {f"{name}_weight": self._xp.full((1,), x, dtype=self._xp.float32) for name, x in weights.items()}


_BETAS = ("beta1", "beta2")


class AdamC(QHAdam):
    """pytorch_optimizer's AdamC on layers that are not normalized, which is AdamW."""

    name = "pytorch-optimizer-adamc"
    framework = "pytorch-optimizer-adamc"
    capabilities = adamw(
        "decoupled_weight_decay",
        "maximize",
        **_NARROW,
        epsilon="uncorrected",
    )

    def optimizer(self, params: list[Any], hp: Mapping[str, Any]) -> Any:
        kept = {name: hp[name] for name in ("lr", "eps", "weight_decay", "maximize")}
        return self._library.AdamC(params, betas=(hp["beta1"], hp["beta2"]), foreach=False, **kept)

    def beside(self, t: int, hp: Mapping[str, Any]) -> dict[str, Any]:
        return {}
