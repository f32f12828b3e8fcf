"""The specification as ONNX operations: under ndonnx, and as a graph that onnxruntime computes."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from setadam_conformance.adapters.spec import NumPySpec
from setadam_conformance.cases.case import copied
from setadam_conformance.protocol import Capabilities, Native, NumPyArray
from setadam_core import Hyperparameters, Rounding, State
from setadam_core.layers import check_layer, dtype_name
from setadam_core.onnx import DTYPES, export_step

_OPTIONS = Capabilities.options - {"complex"}
_SWITCHES = ("decoupled_weight_decay", "maximize", "cos_power", "eps_inside_sqrt")


class NdonnxSpec(NumPySpec):
    """Under ndonnx with values, each operation of which is a graph of its own for onnxruntime."""

    name = "spec:ndonnx"
    framework = "onnx"
    capabilities = Capabilities(dtypes=DTYPES, options=_OPTIONS, reduction="any", cost=40)

    def __init__(self, device: str = "cpu") -> None:
        super().__init__(device)
        import ndonnx

        self._asarray: Any = ndonnx.asarray

    def from_numpy(self, x: NumPyArray) -> Native:
        return self._asarray(copied(x))

    def to_numpy(self, x: Native) -> NumPyArray:
        return np.asarray(x.unwrap_numpy())


class OnnxRuntime(NumPySpec):
    """Graphs of `setadam_core.onnx.export_step`, run by onnxruntime: one for each shape, dtype and set of switches.

    A graph cannot refuse anything, so the arguments are checked before it runs, as a host program has to do.
    """

    name = "onnxruntime"
    framework = "onnx"
    capabilities = Capabilities(dtypes=DTYPES, options=_OPTIONS, reduction="any", traced_t=True, compiles=True, cost=4)

    def __init__(self, device: str = "cpu") -> None:
        super().__init__(device)
        import ndonnx  # noqa: F401  here, so that the kit skips the backend without it
        import onnxruntime

        self._options: Any = onnxruntime.SessionOptions()
        self._options.intra_op_num_threads = 1  # each session would start its own threads
        self._make_session: Any = onnxruntime.InferenceSession
        self._sessions: dict[Any, Any] = {}

    def _step(
        self, param: Native, grad: Native, state: State, hp: Hyperparameters, axes: Any, rounding: Rounding | None
    ) -> tuple[Native, State]:
        if rounding is not None:
            raise ValueError(f"stochastic_rounding must be False for {self.name}, got the seed {rounding.seed}")
        check_layer(param, grad, *state, hp, axes)
        switches = {name: getattr(hp, name) for name in _SWITCHES}
        switches |= {"weight_decay": hp.decays, "decoupled_weight_decay": hp.decays and hp.decoupled_weight_decay}
        session = self._session_of(param.shape, dtype_name(param), axes, switches)
        given = {**asdict(hp), "param": param, "grad": grad, **state._asdict()}
        feed = {x.name: np.asarray(given[x.name]) for x in session.get_inputs()}
        new_param, *new = session.run(["new_param", "new_m", "new_v", "new_t"], feed)
        return new_param, State(*new)

    def _session_of(
        self, shape: tuple[int, ...], dtype: str, axes: tuple[int, ...] | None, switches: Mapping[str, Any]
    ) -> Any:
        key = (shape, dtype, axes, *switches.items())
        if key not in self._sessions:
            model = export_step(shape, dtype, layer_axes=axes, **switches)
            self._sessions[key] = self._make_session(model.SerializeToString(), self._options)
        return self._sessions[key]
