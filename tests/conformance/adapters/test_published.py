"""The adapters of published Adams, each against its library used as a user would: three steps, bit for bit.

A wrong adapter looks like a wrong optimizer. So the state that an adapter hands in, step by step, must lead to where
the library comes by itself. Libraries that are not installed are skipped; `make census` runs this with all of them.
"""

import numpy as np
import pytest

from setadam_conformance.adapters.published import PUBLISHED
from setadam_conformance.cases.case import Case, LayerCase
from setadam_conformance.cases.claimed import as_claimed
from setadam_conformance.cases.strategies import defaults
from setadam_conformance.judging.bench import Bench, follow
from setadam_conformance.running.backends import published, select, versions

pytestmark = pytest.mark.filterwarnings("ignore")  # the libraries' own

PARAMS = [np.array([1.0, -2.0, 0.5], np.float32), np.array([[0.25, -1.0]], np.float32)]
GRADS = [
    [np.array([0.1, -0.2, 3.0], np.float32), np.array([[-1.0, 0.01]], np.float32)],
    [np.array([0.0, 0.4, -1.0], np.float32), np.array([[0.5, 0.02]], np.float32)],
    [np.array([0.7, 0.0, 2.0], np.float32), np.array([[0.0, -0.3]], np.float32)],
]
LR, BETAS, EPS, DECAY = 0.01, (0.8, 0.95), 1e-6, 0.1


def adapter_of(name):
    try:
        return published()[name].make("cpu")
    except (ImportError, RuntimeError) as error:
        pytest.skip(str(error))


def by_the_adapter(adapter, decay):
    """The parameters after three steps, each from the state that the one before returned."""
    claims = adapter.capabilities
    layers = tuple(LayerCase(p, p * 0, p * 0, p * 0) for p in PARAMS)
    hp = defaults(lr=LR, beta1=BETAS[0], beta2=BETAS[1], eps=EPS, weight_decay=decay, **claims.fixed)
    hp["eps_inside_sqrt"] = claims.fixed.get("eps_inside_sqrt", False)
    case = as_claimed(Case("float32", layers, 0, hp), claims)
    bench = Bench(adapter, "float32")
    for grads in GRADS:
        case = Case(
            "float32",
            tuple(LayerCase(x.param, g, x.m, x.v) for x, g in zip(case.layers, grads, strict=True)),
            case.t,
            case.hp,
        )
        answer = bench.step(case)
        case = follow(case, answer, grads)
    return answer.params


def decay_of(adapter):
    options = adapter.capabilities.options
    return DECAY if {"weight_decay", "decoupled_weight_decay"} & options else 0.0


def in_torch(make):
    def three_steps(decay):
        import torch

        params = [torch.nn.Parameter(torch.from_numpy(p.copy())) for p in PARAMS]
        optimizer = make(params, decay)
        for grads in GRADS:
            for p, g in zip(params, grads, strict=True):
                p.grad = torch.from_numpy(g.copy())
            optimizer.step()
        return [p.detach().numpy() for p in params]

    return three_steps


def torch_optim(kind, **path):
    def make(params, decay):
        import torch

        return getattr(torch.optim, kind)(params, lr=LR, betas=BETAS, eps=EPS, weight_decay=decay, **path)

    return in_torch(make)


def timm(params, decay):
    from setadam_conformance.adapters.published.torch_others import _timm_module

    return _timm_module("adamw").AdamWLegacy(params, lr=LR, betas=BETAS, eps=EPS, weight_decay=decay)


def optimi(params, decay):
    import optimi

    return optimi.Adam(params, lr=LR, betas=BETAS, eps=EPS, weight_decay=decay, foreach=False, triton=False)


def qhadam(params, decay):
    import pytorch_optimizer

    return pytorch_optimizer.QHAdam(
        params, lr=LR, betas=BETAS, eps=EPS, nus=(1.0, 1.0), weight_decay=decay, weight_decouple=False
    )


def adamc(params, decay):
    import pytorch_optimizer

    return pytorch_optimizer.AdamC(params, lr=LR, betas=BETAS, eps=EPS, weight_decay=decay, foreach=False)


def in_optax(kind, jit):
    def three_steps(decay):
        import jax
        import optax

        decays = {"weight_decay": decay} if kind == "adamw" else {}
        chain = getattr(optax, kind)(LR, *BETAS, eps=EPS, **decays)
        params = [jax.numpy.asarray(p) for p in PARAMS]

        def step(params, grads, state):
            updates, state = chain.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        step, state = (jax.jit(step) if jit else step), chain.init(params)
        for grads in GRADS:
            params, state = step(params, [jax.numpy.asarray(g) for g in grads], state)
        return params

    return three_steps


def jax_example(decay):
    import jax
    from jax.example_libraries import optimizers

    init, update, get = optimizers.adam(LR, *BETAS, EPS)
    state = init([jax.numpy.asarray(p) for p in PARAMS])
    for i, grads in enumerate(GRADS):
        state = update(i, [jax.numpy.asarray(g) for g in grads], state)
    return get(state)


def in_keras(kind):
    def three_steps(decay):
        import keras

        decays = {"weight_decay": decay} if kind == "AdamW" else {}
        optimizer = getattr(keras.optimizers, kind)(LR, beta_1=BETAS[0], beta_2=BETAS[1], epsilon=EPS, **decays)
        variables = [keras.Variable(p) for p in PARAMS]
        optimizer.build(variables)
        for grads in GRADS:
            optimizer.apply([keras.ops.convert_to_tensor(g) for g in grads], variables)
        return [keras.ops.convert_to_numpy(v) for v in variables]

    return three_steps


def in_mlx(decay):
    import mlx.core as mx
    from mlx.optimizers import Adam

    optimizer = Adam(LR, list(BETAS), EPS, bias_correction=True)
    params = {str(i): mx.array(p) for i, p in enumerate(PARAMS)}
    for grads in GRADS:
        params = optimizer.apply_gradients({str(i): mx.array(g) for i, g in enumerate(grads)}, params)
    return [np.array(p) for p in params.values()]


def in_tinygrad(kind):
    def three_steps(decay):
        from tinygrad import Context, Tensor
        from tinygrad.nn import optim

        decays = {"weight_decay": decay} if kind == "AdamW" else {}
        params = [Tensor(p.copy()) for p in PARAMS]
        optimizer = getattr(optim, kind)(params, lr=LR, b1=BETAS[0], b2=BETAS[1], eps=EPS, **decays)
        for grads in GRADS:
            for p, g in zip(params, grads, strict=True):
                p.grad = Tensor(g.copy())
            with Context(TRAINING=1):
                optimizer.step()
        return [p.numpy() for p in params]

    return three_steps


NATIVELY = {
    "torch-adam:loop": torch_optim("Adam", foreach=False),
    "torch-adam:foreach": torch_optim("Adam", foreach=True),
    "torch-adam:fused": torch_optim("Adam", fused=True),
    "torch-adam:capturable": torch_optim("Adam", foreach=True, capturable=True),
    "torch-adamw:loop": torch_optim("AdamW", foreach=False),
    "torch-adamw:foreach": torch_optim("AdamW", foreach=True),
    "torch-adamw:fused": torch_optim("AdamW", fused=True),
    "torch-adamw:capturable": torch_optim("AdamW", foreach=True, capturable=True),
    "timm-adamw": in_torch(timm),
    "torch-optimi": in_torch(optimi),
    "pytorch-optimizer-qhadam": in_torch(qhadam),
    "pytorch-optimizer-adamc": in_torch(adamc),
    "optax-adam:eager": in_optax("adam", jit=False),
    "optax-adam:jit": in_optax("adam", jit=True),
    "optax-adamw:eager": in_optax("adamw", jit=False),
    "optax-adamw:jit": in_optax("adamw", jit=True),
    "jax-example-adam": jax_example,
    "keras-adam": in_keras("Adam"),
    "keras-adamw": in_keras("AdamW"),
    "mlx-adam": in_mlx,
    "tinygrad-adam": in_tinygrad("Adam"),
    "tinygrad-adamw": in_tinygrad("AdamW"),
}


def test_every_adapter_is_compared():
    assert NATIVELY.keys() == PUBLISHED.keys()


@pytest.mark.parametrize("name", PUBLISHED)
def test_an_adapter_takes_the_steps_of_its_library(name):
    adapter = adapter_of(name)
    decay = decay_of(adapter)
    for got, expected in zip(by_the_adapter(adapter, decay), NATIVELY[name](decay), strict=True):
        assert np.array_equal(got, np.asarray(expected))


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_first_step_is_the_formula_s(name):
    """From a zero state, m̂/√v̂ is the sign of the gradient, so θ moves by η, up to ε."""
    adapter = adapter_of(name)
    claims = adapter.capabilities
    hp = defaults(lr=0.25, eps=1e-12, **claims.fixed)
    hp["eps_inside_sqrt"] = claims.fixed.get("eps_inside_sqrt", False)
    grad = np.array([3.0, -0.5], np.float32)
    case = as_claimed(Case("float32", (LayerCase(grad * 0, grad, grad * 0, grad * 0),), 0, hp), claims)
    moved = Bench(adapter, "float32").step(case).params[0]
    assert np.allclose(moved, -0.25 * np.sign(grad), rtol=1e-4)


def test_a_family_is_selected_by_its_name():
    assert [source.name for source in select(["torch-adam"])] == [n for n in PUBLISHED if n.startswith("torch-adam:")]
    assert not {source.name for source in select([])} & PUBLISHED.keys()


def test_versions_of_what_is_installed():
    pytest.importorskip("torch")
    assert "torch" in versions("torch-adamw")
