"""The bench: it hands arrays to one backend, runs its steps, judges the results and keeps the scores."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple, NoReturn, SupportsInt

import numpy as np

from setadam_conformance.cases.case import Case, LayerCase, real_view
from setadam_conformance.judging import nonfinite
from setadam_conformance.judging.judge import STAGES, Score, Verdict, judge
from setadam_conformance.protocol import Adapter, Capabilities, LayerState, NumPyArray, ProtocolError

SAMPLE = 48  # layers of a cell that are kept for the plots


Given = tuple[list[Any], list[Any], list[LayerState]]  # parameters, gradients and states as native arrays


class Answer(NamedTuple):
    """What a step returned, as NumPy arrays."""

    params: list[NumPyArray]
    states: list[LayerState]


class NonconformingError(AssertionError):
    """The backend broke a property on this case."""

    def __init__(self, message: str, case: Case, verdict: Verdict | None = None) -> None:
        super().__init__(message)
        self.message, self.case, self.verdict = message, case, verdict


class Bench:
    """A backend under test, in one dtype."""

    def __init__(self, adapter: Adapter, dtype: str, peers: Sequence[Adapter] = ()) -> None:
        self.adapter, self.dtype, self.peers = adapter, dtype, tuple(peers)
        self.claims: Capabilities = adapter.capabilities
        self.score = {stage: Score() for stage in STAGES}
        self.medians: dict[str, list[float]] = {stage: [] for stage in STAGES}
        self.sample: list[tuple[int, int, float, float, float]] = []

    def step(self, case: Case, adapter: Adapter | None = None) -> Answer:
        """One step. A backend does not conform if it raises, or returns another dtype or shape."""
        adapter = adapter or self.adapter
        return self.answer(case, self.call(case, native(adapter, case), adapter), adapter)

    def call(self, case: Case, given: Given, adapter: Adapter | None = None) -> Any:
        """What the backend's step returns for these native arrays. The backend gets copies of the lists."""
        params, grads, states = given
        return self._call(case, ([*params], [*grads], [*states]), adapter)

    def _call(self, case: Case, handed: Given, adapter: Adapter | None = None) -> Any:
        params, grads, states = handed
        axes = [layer.axes for layer in case.layers]
        try:
            return (adapter or self.adapter).step(params, grads, states, case.options, axes)
        except ProtocolError:
            raise
        except (Exception, SystemExit) as error:
            raise NonconformingError(f"raised {type(error).__name__}: {error}", case) from error

    def read(self, x: Any, adapter: Adapter | None = None) -> NumPyArray:
        """A copy of a native array as NumPy: a backend may use its buffers again. ProtocolError if the adapter cannot
        convert it.
        """
        adapter = adapter or self.adapter
        try:
            return np.array(adapter.to_numpy(x), copy=True)
        except ProtocolError:
            raise
        except Exception as error:
            raise ProtocolError(
                f"{adapter.name}.to_numpy cannot read {type(x).__name__}: {type(error).__name__}: {error}"
            ) from error

    def answer(self, case: Case, new: Any, adapter: Adapter | None = None) -> Answer:
        """What a step returned, as NumPy. A backend does not conform if a dtype, a shape or t is not as it must be."""
        adapter = adapter or self.adapter
        try:
            returned, after = new
            found = [(m, v, t) for m, v, t in after]
            params = [self.read(p, adapter) for p in returned]
        except (TypeError, ValueError) as error:
            raise ProtocolError(
                f"{adapter.name}.step must return the parameters and a LayerState(m, v, t) for each, got {new!r:.200}"
            ) from error
        states = [LayerState(self.read(m, adapter), self.read(v, adapter), t) for m, v, t in found]
        if not len(params) == len(states) == len(case.layers):
            raise ProtocolError(
                f"{adapter.name}.step returned {len(params)} layers and {len(states)} states for {len(case.layers)}"
            )
        for i, (layer, p, s) in enumerate(zip(case.layers, params, states, strict=True)):
            for name, x, shape, dtype in (
                ("param", p, layer.param.shape, layer.param.dtype),
                ("m", s.m, layer.m.shape, layer.m.dtype),
                ("v", s.v, layer.v.shape, layer.v.dtype),
            ):
                if x.shape != shape or x.dtype != dtype:
                    self.fail(
                        f"{name} of layer {i} must be {dtype}{list(shape)}, got {x.dtype}{list(x.shape)}",
                        case,
                    )
            if not (isinstance(s.t, SupportsInt) and int(s.t) == s.t == case.t + 1):
                self.fail(f"t of layer {i} must be {case.t + 1} after the step, got {s.t}", case)
        return Answer(params, states)

    def conform(self, case: Case, answer: Answer | None = None) -> Answer:
        """One step, judged by the oracle."""
        answer = answer or self.step(case)
        verdict = judge(case, answer.params, answer.states, self.claims)
        self._record(case, verdict)
        if not verdict.conforms:
            score = verdict.scores[str(verdict.parted_at)]
            self.fail(
                f"{verdict.parted_at} of layer {verdict.parted_layer} is {score.ratio:.3g} × its bound off at "
                f"{score.coordinate}: the formula gives {score.expected:.9g}, the backend {score.got:.9g}",
                case,
                verdict,
            )
        return answer

    def spreads(self, case: Case, answer: Answer) -> None:
        """Fail unless NaN and infinity are where the formulas have them (see `nonfinite`)."""
        for i, (layer, param, state) in enumerate(zip(case.layers, answer.params, answer.states, strict=True)):
            if nonfinite.all_finite(layer):
                continue
            expected = nonfinite.formula(case, layer, self.claims.minimum_skips_nan)
            for stage, got in (("m", state.m), ("v", state.v), ("param", real_view(param))):
                value = getattr(expected, stage)
                at = nonfinite.misplaced(value, got, layer.is_complex and stage == "param")
                if at is not None:
                    self.fail(f"{stage} of layer {i} is {got[at]} at {at}, where the formula gives {value[at]}", case)

    def require(self, condition: bool, message: str, case: Case) -> None:
        """Fail with the message unless the condition holds."""
        if not condition:
            self.fail(message, case)

    def same_bits(self, a: Sequence[NumPyArray], b: Sequence[NumPyArray], message: str, case: Case) -> None:
        """Fail unless the arrays have the same bits. The sign of zero and the payload of NaN are not compared."""
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            if not np.array_equal(real_view(x), real_view(y), equal_nan=True):
                self.fail(f"{message} (array {i}: {x.ravel()[:4]} and {y.ravel()[:4]})", case)

    def refuses(self, case: Case, what: str, given: Given | None = None, *, must: bool = True) -> bool:
        """Fail unless the backend raises on this case and leaves parameters, gradients and states unchanged.

        given: native arrays for the case, and step counts of the backend's own type; by default new ones. must: False
        if the backend may accept the case. Returns True if it was refused.
        """
        given = given or native(self.adapter, case)
        handed: Given = ([*given[0]], [*given[1]], [*given[2]])  # a backend may also write into the lists
        before = self._values(given)
        try:
            self._call(case, handed)
        except NonconformingError:
            for now in (given, handed):
                for name, arrays in self._values(now).items():
                    message = f"{what} was refused, but {name} had already been changed"
                    self.require(len(arrays) == len(case.layers), message, case)
                    self.same_bits(before[name], arrays, message, case)
            return True
        if must:
            self.fail(f"{what} was accepted", case)
        return False

    def _values(self, given: Given) -> dict[str, list[NumPyArray]]:
        """A copy of everything that a step is given, by name."""
        params, grads, states = given
        arrays = {"θ": params, "g": grads, "m": [s.m for s in states], "v": [s.v for s in states]}
        values = {name: [self.read(x) for x in of_layers] for name, of_layers in arrays.items()}
        return {**values, "t": [np.array(int(s.t)) for s in states]}

    def fail(self, message: str, case: Case, verdict: Verdict | None = None) -> NoReturn:
        """Stop this example."""
        raise NonconformingError(message, case, verdict)

    def _record(self, case: Case, verdict: Verdict) -> None:
        for stage in STAGES:
            self.score[stage].absorb(verdict.scores[stage])
            self.medians[stage].extend(verdict.medians[stage])
        if len(self.sample) < SAMPLE:
            m, v, theta = (min(verdict.scores[stage].ratio, 1e300) for stage in STAGES)
            d = max(layer.m.size for layer in case.layers)
            self.sample.append((d, case.t + 1, m, v, theta))


def native(adapter: Adapter, case: Case) -> Given:
    """The case's parameters, gradients and states as native arrays. ProtocolError if they cannot be converted."""

    def convert(x: NumPyArray) -> Any:
        x = np.asarray(x)  # NumPy's 0-d results are scalars
        try:
            return adapter.from_numpy(x)
        except ProtocolError:
            raise
        except Exception as error:
            what = f"{adapter.name}.from_numpy cannot take {x.dtype} of shape {x.shape}"
            raise ProtocolError(f"{what}: {type(error).__name__}: {error}") from error

    return (
        [convert(layer.param) for layer in case.layers],
        [convert(layer.grad) for layer in case.layers],
        [LayerState(convert(layer.m), convert(layer.v), case.t) for layer in case.layers],
    )


def follow(case: Case, answer: Answer, grads: Sequence[NumPyArray]) -> Case:
    """The next case of a trajectory: the backend's own parameters and state, and new gradients."""
    layers = tuple(
        LayerCase(p, g, s.m, s.v, layer.axes)
        for layer, p, g, s in zip(case.layers, answer.params, grads, answer.states, strict=True)
    )
    return replace(case, layers=layers, t=case.t + 1)
