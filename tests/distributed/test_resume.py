"""A run of two processes is killed, and resumed on two and on four. See checks_resume."""

import signal

import numpy as np
import pytest

pytest.importorskip("torch")
import launch


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    said, codes = launch.run("checks_resume", 2, folder / "killed", ["killed"])
    assert codes[1] == -signal.SIGKILL, said
    assert codes[0] != 0  # it waited for the other, and was told
    for world, checks in ((2, ["uninterrupted", "resumed"]), (4, ["resumed"])):
        said, _ = launch.run("checks_resume", world, folder / str(world), checks)
        assert not any(said.values()), "\n".join(filter(None, said.values()))
    return folder


def arrays(path):
    found = {}
    with np.load(path) as file:
        for key in file.files:
            name, i = key.split("/")
            found.setdefault(name, {})[i] = file[key]
    return found


def test_on_as_many_processes_bit_for_bit(folder):
    whole, resumed = arrays(folder / "uninterrupted.npz"), arrays(folder / "2" / "resumed.pt.npz")
    assert whole.keys() == resumed.keys()
    for name, of in whole.items():
        assert all(np.array_equal(of[i], resumed[name][i]) for i in "012")


def test_on_more_processes_within_the_bounds_of_the_steps(folder):
    whole, resumed = arrays(folder / "uninterrupted.npz"), arrays(folder / "4" / "resumed.pt.npz")
    for name, of in whole.items():
        other = resumed[name]
        for i in "12":  # the moments do not depend on γ: elementwise, of the same gradients
            np.testing.assert_array_equal(of[i], other[i])
        # Each step adds at most its own bound to what has gathered; the decay shrinks what is there.
        allowed = of["3"] + other["3"]
        assert np.all(np.abs(of["0"].astype(np.float64) - other["0"]) <= allowed)
        assert np.all(allowed < 1e-4)  # where 30 steps move a parameter by some tenths
