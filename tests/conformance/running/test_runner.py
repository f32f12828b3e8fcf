"""The runner, with backends that conform, that do not conform, and that cannot be judged."""

from collections import deque
from dataclasses import replace

import numpy as np
import pytest

from setadam_conformance.adapters.spec import NumPySpec
from setadam_conformance.cases.case import case_from_json
from setadam_conformance.properties import PROPERTIES
from setadam_conformance.protocol import Adapter, Capabilities, LayerState, ProtocolError
from setadam_conformance.running.backends import BackendError, Source, known, select
from setadam_conformance.running.examples import examples
from setadam_conformance.running.plan import PROFILES, plan
from setadam_conformance.running.workers import Workers, _choose


class Answering(NumPySpec):
    """The specification with a changed result."""

    name = "answering"

    def __init__(self, change):
        super().__init__()
        self.change = change

    def step(self, *args):
        return self.change(*super().step(*args))


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_specification_conforms(spec, verdicts, dtype):
    cells = verdicts(spec, dtype)
    assert {name: c.reason or c.failure for name, c in cells.items() if c.status != "pass"} == {}
    assert len(cells) >= (28 if dtype.startswith("float3") else 27)
    assert all(cell.examples >= cell.minimum for cell in cells.values())


def test_every_property_has_an_explanation():
    for prop in PROPERTIES.values():
        assert len(prop.explanation) > 80, prop.name


def test_an_adapter_satisfies_the_protocol(spec):
    assert isinstance(spec, Adapter)


def test_failure_is_shrunk_and_replays(verdicts):
    """The smallest example of an error of a thousandth is one layer of one coordinate."""

    def off(params, states):
        return [p * np.float32(1.001) for p in params], states

    adapter = Answering(off)
    cell = verdicts(adapter, properties=("one-step",))["one-step"]
    assert cell.status == "fail"
    assert cell.failure.stage == "param"
    assert cell.failure.ratio > 1
    case = case_from_json(cell.failure.case)
    assert [layer.param.size for layer in case.layers] == [1]
    assert "LayerCase(" in cell.failure.snippet
    compile(cell.failure.snippet, "snippet", "exec")


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda p, s: ([x * np.nan for x in p], s), "one-step"),
        (lambda p, s: (p, [x._replace(m=x.m.astype(np.float64)) for x in s]), "dtype-shape-and-bits-are-kept"),
        (lambda p, s: (p, [x._replace(t=x.t + 1) for x in s]), "one-step"),
        (lambda p, s: ([x[..., None] for x in p], s), "dtype-shape-and-bits-are-kept"),
    ],
)
def test_wrong_answers_fail(verdicts, change, name):
    assert verdicts(Answering(change), properties=(name,))[name].status == "fail"


def test_raising_is_a_failure_of_the_backend(verdicts):
    def step(*args):
        raise RuntimeError("no such kernel")

    adapter = NumPySpec()
    adapter.step = step
    cells = verdicts(adapter, properties=("one-step", "all-zero-layer", "hyperparameter-errors"))
    assert cells["one-step"].status == "fail"
    assert "no such kernel" in cells["one-step"].failure.message
    assert cells["all-zero-layer"].status == "fail"


def test_a_backend_that_refuses_nothing_fails_the_properties_of_errors(verdicts):
    adapter = NumPySpec()
    adapter.step = lambda params, grads, states, hp, axes: (params, [s._replace(t=s.t + 1) for s in states])
    cells = verdicts(adapter, properties=("hyperparameter-errors", "shape-errors", "nothing-is-half-updated"))
    assert {cell.status for cell in cells.values()} == {"fail"}


def test_randomness_is_detected(verdicts):
    rng = np.random.default_rng(0)

    def shake(params, states):
        return [(p + rng.normal(size=p.shape) * 1e-3).astype(p.dtype) for p in params], states

    assert verdicts(Answering(shake), properties=("determinism",))["determinism"].status == "fail"
    assert verdicts(Answering(shake), properties=("one-step",))["one-step"].status == "fail"


def test_a_broken_protocol_gives_no_verdict(verdicts):
    cell = verdicts(Answering(lambda p, s: (p[:0], s)), properties=("one-step",))["one-step"]
    assert cell.status == "error"
    assert "returned 0 layers" in cell.reason

    def dead(*args):
        raise ProtocolError("the program died")

    adapter = NumPySpec()
    adapter.step = dead
    assert verdicts(adapter, properties=("one-step",))["one-step"].status == "error"


def test_options_that_are_not_claimed_are_not_tried(verdicts):
    """A minimal backend is judged only on what it claims."""

    class Minimal(NumPySpec):
        name = "minimal"
        capabilities = Capabilities(dtypes=("float32",), options=frozenset())

        def step(self, params, grads, states, hp, axes):
            assert len(params) == 1
            assert hp["weight_decay"] == 0
            assert not hp["maximize"]
            assert hp["cos_power"] == 2
            assert hp["eps_inside_sqrt"]
            assert params[0].size > 0
            return super().step(params, grads, states, hp, axes)

    cells = verdicts(Minimal())
    assert all(cell.status == "pass" for cell in cells.values()), cells
    assert "complex-layers" not in cells
    assert "weight-decay" not in cells


def test_the_same_seed_gives_the_same_run_and_shards_differ(spec, verdicts):
    def ratios(**options):
        return {name: cell.ratio for name, cell in verdicts(spec, properties=("one-step",), **options).items()}

    assert ratios(seed=5) == ratios(seed=5)
    assert ratios(seed=5) != ratios(seed=6)
    assert ratios(shard=(1, 2)) != ratios(shard=(2, 2))


def test_shards_share_the_examples(spec):
    (source,) = select(["spec:numpy"])
    whole = plan({source: spec.capabilities}, profile=PROFILES["deep"], properties=("one-step",), dtypes=("float32",))
    part = plan(
        {source: spec.capabilities},
        profile=PROFILES["deep"],
        properties=("one-step",),
        dtypes=("float32",),
        shard=(1, 4),
    )
    assert part[0].examples * 4 == whole[0].examples


def _planned(profile, **claims):
    """For a backend that claims all dtypes: the dtypes of each property, and the cells."""
    source = Source("mine:path", "mine", "none:none")
    asked = Capabilities(dtypes=("float64", "float32", "bfloat16", "float16"), **claims)
    cells = plan({source: asked}, profile=PROFILES[profile])
    found = {}
    for cell in cells:
        found.setdefault(cell.property, set()).add(cell.dtype)
    return found, cells


def test_the_quick_profile_tries_a_property_in_float32_and_a_16_bit_format():
    found, _ = _planned("quick")
    assert len(found["one-step"]) == 4
    seen = set()
    for name, dtypes in found.items():
        if PROPERTIES[name].is_central:
            continue
        assert "float32" in dtypes
        narrow = dtypes - {"float32"}
        assert len(narrow) == (not PROPERTIES[name].is_long and "float16" in PROPERTIES[name].dtypes), name
        seen |= narrow
    assert seen == {"bfloat16", "float16"}
    assert "float16" in found["nan-and-infinity"]
    others = [x for x in PROPERTIES.values() if x.applies(Capabilities(dtypes=("float32",)))]
    assert {x.name for x in others} == set(found)
    everything, _ = _planned("default")
    assert all(len(everything[x.name]) == len(x.dtypes) for x in others)


def test_the_quick_profile_tries_a_slow_compiler_only_at_the_defaults():
    """So it needs one graph. Properties of other hyperparameters are left to the default profile."""
    found, cells = _planned("quick", compiles=True, cost=20)
    assert "one-step" in found
    assert "weight-decay" not in found
    assert {dtype for dtypes in found.values() for dtype in dtypes} == {"float32"}
    assert "weight-decay" in _planned("default", compiles=True, cost=20)[0]
    assert "weight-decay" in _planned("quick", compiles=True, cost=4)[0]
    graphs = set()
    for cell in cells:
        if cell.property in ("one-step", "bit-patterns", "trajectory", "sign"):
            drawn = examples(cell, Capabilities(dtypes=("float32",), compiles=True, cost=20))
            assert len(drawn) >= cell.minimum
            graphs |= {(str(case.hp), str([x.param.shape for x in case.layers])) for case in drawn}
    assert len(graphs) == 1


def test_a_slow_compiler_has_one_worker_and_starts_first():
    """Lanes share the cells of a framework, but not those of a slow compiler: a second one would compile them again."""

    class Lane:
        def __init__(self, current="", loaded=()):
            self.current, self.loaded = current, set(loaded)

    _, slow = _planned("quick", compiles=True, cost=20)
    _, plain = _planned("quick")
    assert {cell.group for cell in slow} == {"mine:path"}
    assert {cell.group for cell in plain} == {"mine"}
    queues = {"mine": deque((cell,) for cell in plain), "mine:path": deque((cell,) for cell in slow)}
    assert _choose(Lane(), queues, set(), {}, True) == "mine:path"
    assert _choose(Lane("mine", {"mine"}), queues, {"mine:path"}, {}, True) == "mine"
    assert _choose(Lane("mine", {"mine"}), {"mine:path": queues["mine:path"]}, {"mine:path"}, {}, True) is None
    assert _choose(Lane("mine", {"mine"}), {"mine": queues["mine"]}, {"mine"}, {}, True) == "mine"


def test_several_processes_find_what_one_process_finds():
    (source,) = select(["spec:numpy"])
    names = ("one-step", "sign", "maximize")
    cells = plan(
        {source: source.make("cpu").capabilities}, profile=PROFILES["quick"], properties=names, dtypes=("float32",)
    )
    found = []
    for jobs in (1, 2):
        with Workers(jobs) as workers:
            found.append({c.property: (c.status, c.ratio, c.examples) for c in workers.run(cells)})
    assert found[0] == found[1]


def test_selection_by_name_framework_and_path(tmp_path, monkeypatch):
    assert [s.name for s in select(["spec:numpy"])] == ["spec:numpy"]
    assert {s.framework for s in select(["jax"])} == {"jax"}
    assert {s.name for s in select([])} == set(known())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine_adapter.py").write_text(
        "from setadam_conformance.adapters.spec import NumPySpec\nclass Mine(NumPySpec):\n    name = 'mine'\n"
    )
    (source,) = select(["mine_adapter:Mine"])
    assert source.make("cpu").name == "mine"
    with pytest.raises(BackendError, match="nonsense"):
        select(["nonsense"])
    # A module is imported by a worker, which can be ended, so `select` does not.
    (absent, lacking) = select(["no_such_module:Thing", "mine_adapter:Missing"])
    with pytest.raises(ImportError, match="no_such_module"):
        absent.make("cpu")
    with pytest.raises(ProtocolError, match="has no attribute 'Missing'"):
        lacking.make("cpu")


def test_unknown_device_is_missing():
    (source,) = select(["spec:numpy"])
    with pytest.raises(RuntimeError, match="cuda:7"):
        source.make("cuda:7")


def test_state_is_a_plain_tuple():
    assert LayerState(1, 2, 3) == (1, 2, 3)
    assert replace(Capabilities(dtypes=()), cost=3).cost == 3
