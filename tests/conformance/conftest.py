"""Examples and verdicts for the tests of the kit."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from setadam_conformance.adapters.spec import NumPySpec
from setadam_conformance.cases.case import DEFAULTS, Case, LayerCase
from setadam_conformance.cases.formats import FORMATS, compute_format
from setadam_conformance.judging.judge import Score, judge
from setadam_conformance.protocol import LayerState
from setadam_conformance.running.backends import Source
from setadam_conformance.running.plan import PROFILES, plan
from setadam_conformance.running.results import Cell
from setadam_conformance.running.runner import check


@pytest.fixture(autouse=True)
def _quiet_floating_point() -> Iterator[None]:
    """Some cases overflow on purpose."""
    with np.errstate(all="ignore"):
        yield


@pytest.fixture
def verdicts() -> Callable[..., dict[str, Cell]]:
    """Run properties on an adapter object in this process. Returns the cells by property."""

    def run(adapter, dtype="float32", properties=(), profile="quick", **options) -> dict[str, Cell]:
        from setadam_conformance.properties import PROPERTIES

        source = Source(adapter.name, adapter.framework, "none:none")
        claims = {source: adapter.capabilities}
        cells = plan(claims, profile=PROFILES[profile], dtypes=(dtype,), properties=properties, **options)
        return {cell.property: check(PROPERTIES[cell.property], adapter, cell) for cell in cells}

    return run


@pytest.fixture
def spec() -> NumPySpec:
    return NumPySpec()


_SHAPES = [
    (),
    (1,),
    (2,),
    (3,),
    (8,),
    (17,),
    (5, 7),
    (4, 4),
    (2, 3, 4),
    (64,),
    (301,),
    (1000,),
    (0,),
    (3, 0),
]
_STEPS = [0, 0, 1, 9, 100, 4095, 10**6]
_DECAYS = [0.0, 1e-2, 0.5]


def _layer(rng, dtype, shape, log10_magnitude):
    """Gradients near one magnitude, spread over up to ten decades, with many exact zeros, and θ of any size."""
    size = 10.0 ** rng.uniform(*log10_magnitude)
    spread = 10.0 ** (rng.choice([0, 1, 5]) * rng.uniform(-1, 1, shape))
    kept = rng.random(shape) >= rng.choice([0, 0, 0.3, 1])
    g, m = (size * spread * rng.normal(size=shape) * kept for _ in "gm")
    v = (size * spread * kept * rng.uniform(0.5, 2, shape)) ** 2
    if rng.random() < 0.2:
        m, v = m * 0, v * 0
    theta = rng.normal(size=shape) * rng.choice([0, 1, 1, 1e-6, size])
    fmt, compute = FORMATS[dtype].numpy, compute_format(dtype).numpy
    with np.errstate(all="ignore"):
        return LayerCase(*(np.asarray(x).astype(t) for x, t in ((theta, fmt), (g, fmt), (m, compute), (v, compute))))


def _settings(rng, options):
    hp = dict(DEFAULTS)
    if rng.random() < 0.3:
        return hp
    hp.update(
        lr=10 ** rng.uniform(-5, 0),
        beta1=float(rng.choice([0, 0.5, 0.9, 0.99])),
        beta2=float(rng.choice([0, 0.9, 0.99, 0.999, 0.9999])),
        eps=10 ** rng.uniform(-16, -4),
        tau=float(rng.choice([0, 0.1, 0.5, 0.9, 0.99])),
    )
    choices = {
        "weight_decay": {"weight_decay": float(rng.choice(_DECAYS))},
        "decoupled_weight_decay": {
            "weight_decay": float(rng.choice(_DECAYS)),
            "decoupled_weight_decay": bool(rng.random() < 0.5),
        },
        "maximize": {"maximize": bool(rng.random() < 0.5)},
        "cos_power": {"cos_power": float(rng.choice([0, 1, 2, 3.5]))},
        "eps_inside_sqrt": {"eps_inside_sqrt": bool(rng.random() < 0.5)},
    }
    for option in sorted(options & choices.keys()):
        hp.update(choices[option])
    return hp


@pytest.fixture(scope="session")
def sample_cases():
    """`sample_cases(dtype, options, count)`: the same cases at each call."""

    def sample(dtype, options, count, seed=0, log10_magnitude=(-20, 15)):
        rng = np.random.default_rng(seed)
        for _ in range(count):
            shapes = [_SHAPES[i] for i in rng.integers(len(_SHAPES), size=rng.integers(1, 5))]
            yield Case(
                dtype,
                tuple(_layer(rng, dtype, shape, log10_magnitude) for shape in shapes),
                int(rng.choice(_STEPS)),
                _settings(rng, options),
            )

    return sample


def run_case(adapter, case):
    """One step of the case by an adapter, back as NumPy."""
    native = adapter.from_numpy
    params, states = adapter.step(
        [native(x.param) for x in case.layers],
        [native(x.grad) for x in case.layers],
        [LayerState(native(x.m), native(x.v), case.t) for x in case.layers],
        case.hp,
        [x.axes for x in case.layers],
    )
    back = adapter.to_numpy
    return [back(p) for p in params], [LayerState(back(s.m), back(s.v), s.t) for s in states]


@pytest.fixture(scope="session")
def judge_cases():
    """`judge_cases(adapter, cases)`: the number of steps beyond the bound, and the scores of all by stage."""

    def judge_all(adapter, cases):
        violations, total = 0, {stage: Score() for stage in ("m", "v", "param")}
        for case in cases:
            params, states = run_case(adapter, case)
            assert all(state.t == case.t + 1 for state in states)
            with np.errstate(all="ignore"):
                verdict = judge(case, params, states, adapter.capabilities)
            violations += not verdict.conforms
            for stage, score in verdict.scores.items():
                total[stage].absorb(score)
        return violations, total

    return judge_all
