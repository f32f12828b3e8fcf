"""DTensors in two and four processes: see checks_layouts, checks_wrappers and checks_resume."""

import signal
from functools import cache
from importlib.util import find_spec

import numpy as np
import pytest

pytest.importorskip("torch")
import launch

from setadam_core import Hyperparameters
from setadam_numpy import kernel

ANY = [
    "checks_layouts.every_layout_for_50_steps",
    "checks_layouts.every_dtype",
    "checks_layouts.parts_of_unusual_kinds",
    "checks_layouts.layers_within_a_parameter",
    "checks_layouts.bad_shards_spoil_their_layer_alone",
    "checks_layouts.gradients_placed_otherwise",
    "checks_layouts.statistics_are_those_of_one_process",
    "checks_layouts.capturable_steps_read_nothing",
    "checks_layouts.what_does_not_fit_is_refused",
    "checks_layouts.rounded_stochastically",
    "checks_wrappers.fsdp2_for_50_steps",
    "checks_wrappers.fsdp2_with_mixed_precision_and_offload",
    "checks_wrappers.tensor_parallel_layers",
    "checks_wrappers.sequence_parallel_norms",
    "checks_wrappers.state_dicts",
    "checks_wrappers.grad_scaler_with_shards",
    "checks_wrappers.wrappers_with_whole_layers",
    "checks_resume.resumed",
]
TWO = [
    "checks_layouts.rounded_where_places_are_not_known",
    "checks_wrappers.compiled_steps",
    "checks_wrappers.flattened_parameters_are_refused",
    "checks_resume.uninterrupted",
]
FOUR = [
    "checks_layouts.meshes_of_two_dimensions",
    "checks_layouts.several_meshes",
    "checks_layouts.three_dimensions",
    "checks_wrappers.fsdp2_over_tensor_parallelism",
    "checks_wrappers.hybrid_sharding",
]
if find_spec("triton") is not None:  # it has wheels for Linux alone
    TWO.append("checks_layouts.kernels_in_two_passes")
# What all tests here share takes a minute to make: one worker of pytest-xdist takes them all.
pytestmark = [pytest.mark.xdist_group("processes of torch"), pytest.mark.long]
# What each group of processes checks. Of four, make test asks what two cannot show, and that a run resumes on them.
GROUPS = {
    "two": (2, [*ANY, *TWO]),
    "four": (4, [*FOUR, "checks_resume.resumed"]),
    "as in two": (4, [check for check in ANY if check != "checks_resume.resumed"]),
}
CASES = [
    pytest.param(group, check, marks=[pytest.mark.heavy] * (group == "as in two"))
    for group, (_, checks) in GROUPS.items()
    for check in checks
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where a run of two processes left its checkpoints before one of them was killed."""
    for dtype in ("float64", "float32", "bfloat16", "float16"):  # compiled here once, and not in all of them at once
        if kernel.why_not(dtype) is None:
            kernel.step_layers([], [], [], [], 1, Hyperparameters(), dtype=dtype, threads=1)
    folder = tmp_path_factory.mktemp("torch")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SETADAM_RESUME", str(folder))
        _, outputs, codes = launch.launch(2, folder / "first", ["checks_resume.killed"], timeout=60)
        assert codes[1] == -signal.SIGKILL, outputs
        assert codes[0] != 0  # it waited for the other, and was told
        yield folder


@pytest.fixture(scope="module")
def results(folder):
    """What each check of a group found: started once, since processes take long to start."""

    @cache
    def of(group):
        world, checks = GROUPS[group]
        return launch.run(world, folder / group, checks)

    return of


@pytest.mark.parametrize(("group", "check"), CASES)
def test_in_processes(results, group, check):
    assert results(group)[check] is None, results(group)[check]


def arrays(path):
    """Of each parameter: θ, m and v at the end, and the sum of its last steps' bounds."""
    with np.load(path) as file:
        names = {key.split("/")[0] for key in file.files}
        return {name: [file[f"{name}/{i}"] for i in range(4)] for name in names}


def test_resumed_on_as_many_processes_bit_for_bit(results, folder):
    results("two")
    whole, resumed = arrays(folder / "uninterrupted.npz"), arrays(folder / "resumed2.npz")
    assert whole.keys() == resumed.keys()
    for name, of in whole.items():
        assert all(np.array_equal(x, y) for x, y in zip(of[:3], resumed[name][:3], strict=True))


def test_resumed_on_more_processes_within_the_bounds_of_the_steps(results, folder):
    results("two"), results("four")
    whole, resumed = arrays(folder / "uninterrupted.npz"), arrays(folder / "resumed4.npz")
    for name, (theta, m, v, bounds) in whole.items():
        other, own_m, own_v, own_bounds = resumed[name]
        # The moments do not depend on γ: elementwise, of the same gradients.
        assert np.array_equal(m, own_m)
        assert np.array_equal(v, own_v)
        # Each step adds at most its own bound to what has gathered, and the decay shrinks that.
        allowed = bounds + own_bounds
        assert np.all(np.abs(theta.astype(np.float64) - other) <= allowed)
        assert np.all(allowed < 1e-4)  # where thirty steps move a parameter by some tenths
