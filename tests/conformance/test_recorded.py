"""The recorded gradients: the script reproduces them, its derivatives are correct, and backends can follow them."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from setadam_conformance.adapters.spec import NumPySpec
from setadam_conformance.cases import recorded
from setadam_conformance.judging.judge import judge
from setadam_conformance.protocol import Capabilities, LayerState
from setadam_core import Hyperparameters, init, step

SCRIPT = Path(recorded.__file__).parents[2] / "record_gradients.py"
NAMES = ["mlp", "convolution", "embedding", "attention", "layer_norm"]
DTYPES = ["float64", "float32", "bfloat16", "float16"]


@pytest.fixture(scope="module")
def script():
    loading = importlib.util.spec_from_file_location("record_gradients", SCRIPT)
    module = importlib.util.module_from_spec(loading)
    loading.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", NAMES)
def test_the_script_makes_what_is_recorded(script, name):
    """Everything except the last 170 of the MLP's 200 steps.

    Another BLAS may round float64 differently, by about 1e-16 of a sum's terms in each step. That can change the last
    bit of a float32, or give 1e-16 in place of zero.
    """
    made = script.record(name, 30 if name == "mlp" else None)
    with np.load(recorded.FILE) as arrays:
        assert {key for key in arrays.files if key.startswith(f"{name}/")} == set(made)
        for key, x in made.items():
            stored = arrays[key][: len(x)] if key.endswith("/grads") else arrays[key]
            assert (stored.dtype, stored.shape) == (np.float32, x.shape)
            np.testing.assert_allclose(stored, x, rtol=2**-22, atol=1e-12 * np.abs(x).max(), err_msg=key)


def test_the_script_writes_the_same_bytes_each_time(script, tmp_path, monkeypatch):
    few = {name: script.record(name, 2) for name in ("attention",)}
    monkeypatch.setattr(script, "MODELS", few)
    monkeypatch.setattr(script, "record", lambda name: few[name])
    for name in ("a.npz", "b.npz"):
        script.main(tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_the_backward_pass_is_the_derivative_of_the_loss(script, name, monkeypatch):
    """Along a random direction, by central differences of step h = 1e-5.

    Their error is h² times the third derivative, and 1e-16/h from rounding the loss. No kink of ReLU is near these
    batches.
    """
    model = script.MODELS[name]()
    x, y = next(script.batches(model.batch))
    losses = []

    def head(logits, labels):
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        losses.append(-np.log(p[np.arange(len(labels)), labels]).mean())
        return original(logits, labels)

    original = script.head
    monkeypatch.setattr(script, "head", head)
    grads = model.gradients(model.params, x, y)
    h = 1e-5
    for key, p in model.params.items():
        direction = script.normal(f"{name}/{key}", *p.shape, scale=1.0)
        for sign in (1, -1):
            model.gradients(model.params | {key: p + sign * h * direction}, x, y)
        slope = (losses[-2] - losses[-1]) / (2 * h)
        scale = np.linalg.norm(grads[key]) * np.linalg.norm(direction)
        assert abs(slope - np.vdot(grads[key], direction)) < 1e-6 * scale + 1e-9, key


def test_training_on_the_recorded_gradients_lowers_the_loss(script):
    recording = recorded.recordings()["mlp"]
    params = {key: p.astype(np.float64) for key, p in zip(recording.layers, recording.params, strict=True)}
    states = {key: init(p) for key, p in params.items()}
    x, y = next(script.batches(1797))

    def accuracy():
        h = np.maximum(x @ params["w1"] + params["b1"], 0)
        return np.mean(np.argmax(h @ params["w2"] + params["b2"], axis=1) == y)

    before = accuracy()
    for grads in recording.grads_by_step:
        for key, g in zip(recording.layers, grads, strict=True):
            params[key], states[key] = step(params[key], g.astype(np.float64), states[key], Hyperparameters())
    assert before < 0.3
    assert accuracy() > 0.8


def test_recordings_are_small_complete_and_real():
    assert recorded.FILE.stat().st_size < 1.5e6
    assert list(recorded.recordings()) == NAMES
    for recording in recorded.recordings().values():
        assert len(recording.grads_by_step) == (200 if recording.name == "mlp" else len(recording.grads_by_step)) >= 10
        for grads in recording.grads_by_step:
            assert [g.shape for g in grads] == [p.shape for p in recording.params]
            assert all(np.all(np.isfinite(g)) for g in grads)
    table = np.stack([grads[0] for grads in recorded.recordings()["embedding"].grads_by_step])
    assert np.mean(table == 0) > 0.8
    assert {"scale", "bias"} <= set(recorded.recordings()["layer_norm"].layers)
    with pytest.raises(ValueError, match="read-only"):
        recorded.recordings()["mlp"].params[0][0] = 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_the_specification_follows_within_its_bound(name, dtype):
    adapter, recording, t = NumPySpec(), recorded.recordings()[name], 0
    for case, params, states in recorded.follow(adapter, recording, dtype):
        assert case.t == t
        verdict = judge(case, params, states, adapter.capabilities)
        assert verdict.conforms, (t, verdict.parted_at, verdict.parted_layer)
        assert sum(score.not_judged for score in verdict.scores.values()) == 0
        t += 1
    assert t == len(recording.grads_by_step)


@pytest.mark.parametrize("dtype", DTYPES)
def test_following_the_specification_gives_its_cases(dtype):
    recording = recorded.recordings()["attention"]
    followed = recorded.follow(NumPySpec(), recording, dtype)
    for case, (own, _, _) in zip(recorded.cases(recording, dtype), followed, strict=True):
        assert case.t == own.t
        for a, b in zip(case.layers, own.layers, strict=True):
            for name in ("param", "grad", "m", "v"):
                assert getattr(a, name).dtype == getattr(b, name).dtype
                np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_hyperparameters_can_be_chosen():
    recording, hp = recorded.recordings()["attention"], recorded.SETTINGS | {"lr": 0.0}
    for case in recorded.cases(recording, "float32", hp):
        assert case.hp == hp
        for layer, start in zip(case.layers, recording.params, strict=True):
            np.testing.assert_array_equal(layer.param, start)


def test_in_place_and_single_layer_backends_are_followed_too():
    class InPlace(NumPySpec):
        capabilities = Capabilities(dtypes=("float32",), options=frozenset(), in_place=True)
        calls = 0

        def step(self, params, grads, states, hp, layer_axes):
            assert len(params) == 1
            self.calls += 1
            (new,), (moved,) = super().step(params, grads, states, hp, layer_axes)
            for old, x in zip((params[0], states[0].m, states[0].v), (new, moved.m, moved.v), strict=True):
                old[...] = x
            return params, [LayerState(states[0].m, states[0].v, moved.t)]

    recording, adapter = recorded.recordings()["convolution"], InPlace()
    both = zip(
        recorded.follow(adapter, recording, "float32"), recorded.follow(NumPySpec(), recording, "float32"), strict=True
    )
    for own, plain in both:
        for a, b in zip(own.params, plain.params, strict=True):
            np.testing.assert_array_equal(a, b)
    assert adapter.calls == len(recording.params) * len(recording.grads_by_step)


def test_a_wrong_step_exceeds_its_bound_on_recorded_gradients():
    class NoDownScaling(NumPySpec):
        def _step(self, param, grad, state, hp, axes, rounding):
            return super()._step(param, grad, state, Hyperparameters(cos_power=0.0), axes, rounding)

    adapter = NoDownScaling()
    for name in NAMES:
        _, params, states = next(followed := recorded.follow(adapter, recorded.recordings()[name], "float32"))
        followed.close()
        case = next(recorded.cases(recorded.recordings()[name], "float32"))
        assert judge(case, params, states, adapter.capabilities).parted_at == "param"
