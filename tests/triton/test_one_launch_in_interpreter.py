"""Both passes in one launch, whose blocks wait for one another: it ends, with the same bits, in any order of blocks.

Started by test_interpreter.py.
"""

import numpy as np
import one_launch
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from interpreted import Interpreted  # repairs the interpreter
from test_in_interpreter import bits, copies, layers

from setadam_torch.paths.triton import kept, launches, tables

assert Interpreted
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(launches, "LANES", 16)
    monkeypatch.setattr(tables, "_CHUNK", 32)
    kept.forget()
    yield
    kept.forget()


def both(group, columns, monkeypatch, run=lambda launch: launch(), **options):
    """The bits after two steps in two launches each, and in one."""
    one = copies(columns)
    for _ in range(2):
        launches.step_layers(group, columns, **options)
    monkeypatch.setattr(tables, "ONE_LAUNCH", True)
    for _ in range(2):
        run(lambda: launches.step_layers(group, one, **options))
    (scratch,) = kept._scratch.values()
    assert not scratch.arrived.any()
    assert not scratch.tickets.any()
    return bits(columns), bits(one)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("axes", [None, (1,)])
def test_it_is_the_step(monkeypatch, dtype, axes):
    """Of layers of one chunk and of many, of stacks, and of none."""
    options = {"layer_axes": axes, "weight_decay": 0.1, "decoupled_weight_decay": True}
    group, columns = layers((3, 50), (1, 7), (2, 0), (1, 150), dtype=dtype, **options)
    two, one = both(group, columns, monkeypatch)
    assert two == one


def test_found_inf_leaves_all_as_it_was(monkeypatch):
    group, columns = layers((100,), (5,))
    before = bits(columns)
    two, one = both(group, columns, monkeypatch, grad_scale=torch.tensor(2.0), found_inf=torch.ones(1))
    assert two == one == before


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("resident", [1, 2, 5, 100])
@pytest.mark.parametrize("ahead", [0, 2])
def test_it_ends_in_any_order_of_blocks(monkeypatch, resident, seed, ahead):
    """However few blocks the device holds, and whichever of them goes on."""
    monkeypatch.setattr(tables, "_ahead", lambda device: ahead)
    group, columns = layers((150,), (5,), (0,), (33,))
    with monkeypatch.context() as patch:
        two, one = both(group, columns, monkeypatch, lambda launch: on_device(patch, resident, seed, launch))
    assert two == one


def on_device(patch, resident, seed, launch):
    one_launch.install(patch, one_launch.Device(resident, seed))
    launch()
    patch.undo()


def test_a_wrong_order_is_found_out(monkeypatch):
    """If a block waited for a ticket that nobody holds yet, a small device would never end."""
    monkeypatch.setattr(tables, "ONE_LAUNCH", True)
    monkeypatch.setattr(tables, "order", lambda owner, ahead: np.array([1, 0, 2, 3, 4, 5]))
    group, columns = layers((70,))
    one_launch.install(monkeypatch, one_launch.Device(1, 0))
    with pytest.raises(one_launch.StuckError):
        launches.step_layers(group, columns)


@given(st.lists(st.integers(1, 5), max_size=6), st.integers(0, 8))
def test_each_descent_comes_after_all_moments_of_its_layer(chunks, ahead):
    owner = np.repeat(np.arange(len(chunks)), chunks)
    tasks = tables.order(owner, ahead).tolist()
    assert sorted(tasks) == list(range(2 * owner.size))
    for at, task in enumerate(tasks):
        if task % 2:
            layer = owner[task // 2]
            assert all(2 * c in tasks[:at] for c in range(owner.size) if owner[c] == layer)
            between = sum(t % 2 == 0 for t in tasks[: tasks.index(2 * int(np.flatnonzero(owner == layer)[-1]))])
            assert sum(t % 2 == 0 for t in tasks[:at]) <= between + ahead + 1  # and not long after
