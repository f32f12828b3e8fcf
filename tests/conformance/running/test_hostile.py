"""Backends that break everything except arithmetic. The report says what each did, and none crashes the kit."""

import sys

import numpy as np
import pytest

from setadam_conformance.adapters.spec import NumPySpec
from setadam_conformance.protocol import Capabilities, ProtocolError
from setadam_conformance.running.backends import Source, checked
from setadam_conformance.running.plan import PROFILES, plan
from setadam_conformance.running.runner import run_cell
from setadam_conformance.running.workers import Workers

PROPERTIES = ("one-step", "dtype-shape-and-bits-are-kept", "inputs-are-not-written")


def adapter(**methods):
    return type("Hostile", (NumPySpec,), {"name": "hostile", **methods})()


def answering(change):
    return adapter(step=lambda self, *args: change(*NumPySpec.step(self, *args)))


def exits(self, *args):
    sys.exit(0)


def raises(self, *args):
    raise ValueError("no")


def clears(self, params, grads, states, hp, axes):
    answer = NumPySpec.step(self, params, grads, states, hp, axes)
    for given in (params, grads, states, hp, axes):
        given.clear()
    return answer


def writes(self, params, *rest):
    answer = NumPySpec.step(self, params, *rest)
    for param in params:
        param[...] = 7
    return answer


@pytest.mark.parametrize(
    ("hostile", "prop", "status", "said"),
    [
        (adapter(step=exits), "one-step", "fail", "raised SystemExit"),
        (adapter(step=lambda self, *args: None), "one-step", "error", "must return the parameters and a LayerState"),
        (answering(lambda p, s: (p, [x[:2] for x in s])), "one-step", "error", "must return the parameters"),
        (answering(lambda p, s: (p, s, 1)), "one-step", "error", "must return the parameters"),
        (answering(lambda p, s: (p[1:], s[1:])), "one-step", "error", "returned 0 layers"),
        (answering(lambda p, s: (["x" for _ in p], s)), "one-step", "fail", "got <U1"),
        (answering(lambda p, s: ([x.tolist() for x in p], s)), "one-step", "fail", "got float64"),
        (answering(lambda p, s: (p, [x._replace(t=None) for x in s])), "one-step", "fail", "got None"),
        (answering(lambda p, s: (p, [x._replace(t=x.t + 0.5) for x in s])), "one-step", "fail", "got 1.5"),
        (answering(lambda p, s: ([x.astype(object) for x in p], s)), "one-step", "fail", "got object"),
        (adapter(to_numpy=raises), PROPERTIES[1], "error", "to_numpy cannot read"),
        (adapter(from_numpy=raises), PROPERTIES[1], "error", "from_numpy cannot take float32"),
        (adapter(step=clears), "inputs-are-not-written", "pass", ""),
        (adapter(step=writes), "inputs-are-not-written", "fail", "a parameter was written"),
    ],
)  # fmt: skip
def test_the_report_says_what_the_backend_did(verdicts, hostile, prop, status, said):
    cell = verdicts(hostile, properties=(prop,))[prop]
    assert cell.status == status
    assert said in (cell.failure.message if cell.failure else cell.reason)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"capabilities": None}, "must be a Capabilities"),
        ({"capabilities": Capabilities(dtypes=("float99",))}, "float99"),
        ({"capabilities": Capabilities(dtypes=())}, "must be at least one of"),
        ({"capabilities": Capabilities(dtypes="float32")}, "claims dtypes"),
        ({"capabilities": Capabilities(dtypes=("float32",), options=["empty"])}, "must be a frozenset"),
        ({"capabilities": Capabilities(dtypes=("float32",), fixed={"momentum": 0.9})}, "momentum"),
        ({"capabilities": Capabilities(dtypes=("float32",), fixed={"tau": 1.0})}, "tau must be in"),
        ({"capabilities": Capabilities(dtypes=("float32",), epsilon="nowhere")}, "epsilon"),
        ({"capabilities": Capabilities(dtypes=("float32",), in_place=1)}, "true or false"),
        ({"capabilities": Capabilities(dtypes=("float32",), options=frozenset({"teleport"}))}, "teleport"),
        ({"capabilities": Capabilities(dtypes=("float32",), reduction="none")}, "reduction"),
        ({"capabilities": Capabilities(dtypes=("float32",), cost=0)}, "cost"),
        ({"capabilities": Capabilities(dtypes=("float32",), reloads=("pickle",))}, "no method reload"),
    ],
)
def test_unknown_claims_are_refused(changes, said):
    made = adapter()
    vars(made).update(changes)
    with pytest.raises(ProtocolError, match=said):
        checked(made, "hostile")


def test_missing_attributes_of_an_adapter_are_named():
    with pytest.raises(ProtocolError, match="has no capabilities, from_numpy, to_numpy, step"):
        checked(type("Empty", (), {"name": "empty", "framework": "x"})(), "empty")


IN_WORKERS = """
import os, time
from setadam_conformance.adapters.spec import NumPySpec

class Hangs(NumPySpec):
    name = "hangs"
    def step(self, *args):
        time.sleep(600)

class Dies(NumPySpec):
    name = "dies"
    def step(self, *args):
        os._exit(0)

class Talks(NumPySpec):
    name = "talks"
    def step(self, *args):
        print("a word")
        return super().step(*args)

def breaks(device):
    return 1 / 0
"""


@pytest.fixture
def sources(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "hostile_in_workers.py").write_text(IN_WORKERS)
    return {name: Source(name, name, f"hostile_in_workers:{name}") for name in ("Hangs", "Dies", "Talks", "breaks")}


def test_a_constructor_that_raises_is_not_a_missing_backend(sources):
    with pytest.raises(ProtocolError, match="raised ZeroDivisionError"):
        sources["breaks"].make("cpu")


def test_a_backend_that_does_not_load_in_a_second_process_is_at_fault_itself(sources):
    """As a program that may run only once at a time. It is not an error of the kit."""
    (cell,) = plan(
        {sources["breaks"]: NumPySpec.capabilities},
        profile=PROFILES["quick"],
        properties=("sign",),
        dtypes=("float32",),
    )
    result = run_cell(cell)
    assert result.status == "error"
    assert result.reason.startswith("the backend could not be loaded a second time: ")


def test_a_backend_that_hangs_or_crashes_ends_only_itself(sources, capfd):
    """Two of them end their worker process. The third one finishes, and what it prints is not on stdout."""
    asked = [sources[name] for name in ("Hangs", "Dies", "Talks")]
    with Workers(2, patience=1) as workers:
        claims = workers.claims(asked, "cpu")
        cells = plan(claims, profile=PROFILES["quick"], properties=PROPERTIES, dtypes=("float32",), max_examples=2)
        done = list(workers.run(cells))
    assert len(done) == len(cells) == 9
    statuses = {source.name: {cell.status for cell in done if cell.backend == source.name} for source in asked}
    assert statuses == {"Hangs": {"error"}, "Dies": {"error"}, "Talks": {"pass"}}
    reasons = [cell.reason for cell in done if cell.status == "error"]
    assert sum("the backend ended its process" in reason for reason in reasons) >= 2
    assert any(reason.startswith("not run, because the backend ended its process in") for reason in reasons)
    out, err = capfd.readouterr()
    assert out == ""
    assert "a word" in err
    assert "Timeout" in err  # and where it hung


def in_one_buffer(flips=False):
    """An adapter that returns its results in buffers that it uses again, and that `to_numpy` does not copy."""
    buffers, calls = {}, []

    def kept(key, x):
        x = np.asarray(x)
        buffer = buffers.setdefault((*key, x.shape, str(x.dtype)), np.empty_like(x))
        buffer[...] = x
        return buffer

    def step(self, *args):
        params, states = NumPySpec.step(self, *args)
        calls.append(1)
        if flips * len(calls) % 2:  # by an ulp: within the bound, and not the same bits
            params = [np.nextafter(p, np.inf) for p in params]
            states = [s._replace(v=np.nextafter(s.v, np.inf)) for s in states]
        states = [s._replace(m=kept((i, "m"), s.m), v=kept((i, "v"), s.v)) for i, s in enumerate(states)]
        return [kept((i, "param"), p) for i, p in enumerate(params)], states

    return adapter(step=step)


@pytest.mark.parametrize(("flips", "status"), [(False, "pass"), (True, "fail")])
def test_results_are_copied_before_the_next_step(verdicts, flips, status):
    for name in ("determinism", "layers-are-independent"):
        assert verdicts(in_one_buffer(flips), properties=(name,))[name].status == status


@pytest.mark.parametrize("field", ["m", "v"])
def test_a_state_written_before_a_refusal_is_seen(verdicts, field):
    def step(self, params, grads, states, *rest):
        for state in states:
            getattr(state, field)[...] += 1
        return NumPySpec.step(self, params, grads, states, *rest)

    cell = verdicts(adapter(step=step), properties=("hyperparameter-errors",))["hyperparameter-errors"]
    assert cell.status == "fail"
    assert f"{field} had already been changed" in cell.failure.message
