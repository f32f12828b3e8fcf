"""Adapters for published Adams: optimizers of other libraries, which the kit judges as they are.

Each loads its library when it is made, and raises ImportError where that is not installed. The claims are those with
which the library's formulas and its arithmetic can be judged; `docs/census.md` has the verdicts. An adapter hands the
library its inputs and reads its state: it computes nothing of the step.
"""

from typing import Any

from setadam_conformance.protocol import ADAM, ADAMW, Capabilities

__all__ = ["LIBRARIES", "PUBLISHED", "adam", "adamw"]

_HERE = "setadam_conformance.adapters.published"

# Backend by name: where its adapter is.
PUBLISHED = {
    name: f"{_HERE}.{target}"
    for name, target in {
        "torch-adam:loop": "torch_optim:AdamLoop",
        "torch-adam:foreach": "torch_optim:AdamForeach",
        "torch-adam:fused": "torch_optim:AdamFused",
        "torch-adam:capturable": "torch_optim:AdamCapturable",
        "torch-adamw:loop": "torch_optim:AdamWLoop",
        "torch-adamw:foreach": "torch_optim:AdamWForeach",
        "torch-adamw:fused": "torch_optim:AdamWFused",
        "torch-adamw:capturable": "torch_optim:AdamWCapturable",
        "timm-adamw": "torch_others:TimmAdamW",
        "torch-optimi": "torch_others:OptimiAdam",
        "pytorch-optimizer-qhadam": "torch_others:QHAdam",
        "pytorch-optimizer-adamc": "torch_others:AdamC",
        "optax-adam:eager": "jax_optimizers:OptaxAdam",
        "optax-adam:jit": "jax_optimizers:OptaxAdamJit",
        "optax-adamw:eager": "jax_optimizers:OptaxAdamW",
        "optax-adamw:jit": "jax_optimizers:OptaxAdamWJit",
        "jax-example-adam": "jax_optimizers:ExampleAdam",
        "keras-adam": "keras_optimizers:KerasAdam",
        "keras-adamw": "keras_optimizers:KerasAdamW",
        "mlx-adam": "mlx_optimizers:MlxAdam",
        "tinygrad-adam": "tinygrad_optim:TinygradAdam",
        "tinygrad-adamw": "tinygrad_optim:TinygradAdamW",
    }.items()
}

# By framework: the distributions that a verdict depends on. Keras runs on one of the last three.
LIBRARIES: dict[str, tuple[str, ...]] = {
    "torch-adam": ("torch",),
    "torch-adamw": ("torch",),
    "timm-adamw": ("timm", "torch"),
    "torch-optimi": ("torch-optimi", "torch"),
    "pytorch-optimizer-qhadam": ("pytorch_optimizer", "torch"),
    "pytorch-optimizer-adamc": ("pytorch_optimizer", "torch"),
    "optax-adam": ("optax", "jax", "jaxlib"),
    "optax-adamw": ("optax", "jax", "jaxlib"),
    "jax-example-adam": ("jax", "jaxlib"),
    "keras-adam": ("keras", "torch", "jax", "tensorflow"),
    "keras-adamw": ("keras", "torch", "jax", "tensorflow"),
    "mlx-adam": ("mlx",),
    "tinygrad-adam": ("tinygrad",),
    "tinygrad-adamw": ("tinygrad",),
}


def adam(*options: str, **claims: Any) -> Capabilities:
    """The claims of an Adam with these options, beside arrays without elements and several layers in a call.

    1 - β**t cancels in all of them, in float64 where the claims do not say otherwise.
    """
    kept: dict[str, Any] = {
        "dtypes": ("float64", "float32", "bfloat16", "float16"),
        "options": frozenset({"empty", "many", *options}),
        "fixed": ADAM,
        "corrections": "cancelling-in-float64",
    }
    return Capabilities(**kept | claims)


def adamw(*options: str, **claims: Any) -> Capabilities:
    """The claims of an AdamW: as `adam`, with decoupled weight decay."""
    return adam(*options, **{"fixed": ADAMW, **claims})
