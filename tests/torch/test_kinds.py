"""Tensors of every kind, role and path: a step is the right one, or is refused before anything has changed."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensor_kinds as kinds
import torch

from setadam_torch import SETAdam
from setadam_torch.checks import memory
from setadam_torch.paths.choice import why_no_kernel
from setadam_torch.paths.columns import Columns
from setadam_torch.paths.cpu_kernel.path import CPUKernel
from setadam_torch.paths.triton import launches

PROGRAM = Path(__file__).with_name("tensor_kinds.py")

# Kinds that are ordinary enough for every role.
ORDINARY = ["plain", "a parameter", "subclass", "wrapper", "result of a collective", "lazily negative", "lazily cloned"]
ORDINARY += ["turned", "with gaps", "channels last", "offset", "shared"]
ONLY_READ = ["expanded", "lazily zero", "lazily conjugate", "of inference mode"]  # fit for gradients

# Adam reads these mixtures without a word. Ours keeps v in its compute dtype, and bfloat16 cannot count past 256.
REFUSED_ON_PURPOSE = {("float64", "exp_avg_sq"), ("bfloat16", "exp_avg_sq"), ("bfloat16", "step")}


def outcomes():
    """Of each case: verdict ("fatal" if it ended the process), text, and whether Adam copes with what is refused."""
    found, begin = {}, 0
    while begin < len(kinds.CASES):
        command = [sys.executable, str(PROGRAM), str(begin)]
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
        for line in done.stdout.splitlines():
            number, *outcome = json.loads(line)
            found[number] = outcome or ["fatal", f"exit code {done.returncode}: {done.stderr[-500:]}", False]
        assert begin in found, done.stderr
        begin = max(found) + 1
    return {kinds.CASES[number]: outcome for number, outcome in found.items()}


@pytest.mark.skipif(why_no_kernel("cpu", torch.float32) is not None, reason="one of the paths is the CPU kernel's")
def test_right_or_refused_and_never_fatal():
    found = outcomes()
    assert len(found) == len(kinds.CASES)
    bad = {case: text for case, (verdict, text, _) in found.items() if verdict not in ("right", "refused")}
    assert not bad
    right = {case for case, (verdict, *_) in found.items() if verdict == "right"}
    due = {(kind, role, path) for kind in ORDINARY for role in kinds.ROLES for path in kinds.PATHS}
    due |= {(kind, "grad", path) for kind in ONLY_READ for path in kinds.PATHS}
    due |= {(kind, "step", path) for kind in ("int64", "of another shape") for path in kinds.PATHS}
    assert not due - right
    unfriendly = {(kind, role) for (kind, role, _), (_, _, copes) in found.items() if copes}
    assert unfriendly == REFUSED_ON_PURPOSE


def given_to_kernels(kind, role):
    given, _ = kinds.tensors(kind, role)
    return [[given[key]] for key in kinds.ROLES]


WITHOUT_MEMORY = ["wrapper", "fake", "meta", "functional", "of a functorch transform", "freed", "lazily zero"]
OF_OTHER_VALUES = ["lazily negative", "lazily conjugate", "quantized", "sparse", "jagged", "masked"]


@pytest.mark.filterwarnings("ignore:The PyTorch API of MaskedTensors", "ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("kind", [*WITHOUT_MEMORY, *OF_OTHER_VALUES])
@pytest.mark.parametrize("role", kinds.ROLES[:4])
def test_no_address_is_taken_of_what_has_none(kind, role):
    columns = given_to_kernels(kind, role)
    assert memory.addresses(columns[kinds.ROLES.index(role)]) is None
    group = SETAdam([torch.nn.Parameter(torch.ones(3))]).param_groups[0]
    assert CPUKernel.why_not({**group, "fused": True}, [column[0] for column in columns[:4]]) is not None
    with pytest.raises((TypeError, RuntimeError, ValueError)):
        launches.step_layers(group, columns)
    with pytest.raises(TypeError, match="own the memory of their values"):
        CPUKernel.step(group, Columns(*columns))


@pytest.mark.parametrize("kind", ["plain", "a parameter", "subclass", "turned", "with gaps", "channels last", "offset"])
def test_addresses_of_what_has_memory(kind):
    x = kinds.KINDS[kind](torch.rand(kinds.SHAPE))
    assert memory.addresses([x]) == [x.data_ptr()]


def test_an_array_of_many_numbers_is_not_printed():
    p = torch.nn.Parameter(torch.ones(1000))
    p.grad = torch.ones(1000)
    optimizer = SETAdam([p])
    optimizer.state[p] = {"step": torch.tensor(1.0), "exp_avg": np.ones(1000), "exp_avg_sq": torch.ones(1000)}
    with pytest.raises(TypeError, match="parameter 0 of group 0: exp_avg must be a tensor, got a ndarray"):
        optimizer.step()
