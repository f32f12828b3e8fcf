"""MLX's Adam, with its bias correction on."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from setadam_conformance.adapters.published import adam
from setadam_conformance.protocol import LayerState, Native, NumPyArray


class MlxAdam:
    """mlx.optimizers.Adam(bias_correction=True)."""

    name = "mlx-adam"
    framework = "mlx-adam"
    capabilities = adam(
        dtypes=("float32", "bfloat16", "float16"),
        corrections="cancelling",
        moments="parameter",
        arithmetic="parameter",
        flushes_subnormals=True,
        largest_t=2**31 - 1,
    )

    def __init__(self, device: str = "cpu") -> None:
        if device != "cpu":
            raise RuntimeError(f"{self.name} is judged on the CPU")
        import mlx.core
        import mlx.optimizers

        mlx.core.set_default_device(mlx.core.cpu)
        self._mx, self._optimizers = mlx.core, mlx.optimizers

    def from_numpy(self, x: NumPyArray) -> Native:
        if str(x.dtype) == "bfloat16":
            return self._mx.array(np.ascontiguousarray(x).reshape(x.shape).view(np.uint16)).view(self._mx.bfloat16)
        return self._mx.array(x)

    def to_numpy(self, x: Native) -> NumPyArray:
        if x.dtype == self._mx.bfloat16:
            import ml_dtypes

            return np.array(x.view(self._mx.uint16)).view(ml_dtypes.bfloat16)
        return np.array(x)

    def step(
        self,
        params: Sequence[Native],
        grads: Sequence[Native],
        states: Sequence[LayerState],
        hp: Mapping[str, Any],
        layer_axes: Sequence[tuple[int, ...] | None],
    ) -> tuple[list[Native], list[LayerState]]:
        optimizer = self._optimizers.Adam(
            learning_rate=hp["lr"], betas=[hp["beta1"], hp["beta2"]], eps=hp["eps"], bias_correction=True
        )
        given = {str(i): p for i, p in enumerate(params)}
        optimizer.init(given)
        for name, state in zip(given, states, strict=True):
            optimizer.state[name].update(m=state.m, v=state.v)
        optimizer.state["step"] = self._mx.array(states[0].t, optimizer.state["step"].dtype)
        new = optimizer.apply_gradients(dict(zip(given, grads, strict=True)), given)
        self._mx.eval(new, optimizer.state)
        kept: list[Any] = [optimizer.state[name] for name in given]
        t = int(optimizer.state["step"])
        return [new[name] for name in given], [LayerState(s["m"], s["v"], t) for s in kept]
