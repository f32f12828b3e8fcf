"""The commands in error messages, which must work whether or not setadam is on a package index."""

import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from setadam_core.extras import pip_install
from setadam_core.show import plots

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
EXTRAS = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
# What messages ask for: no markers, and nothing of another extra
NAMED = ("torch", "jax", "fast", "cupy", "onnx", "conformance", "plot")


@pytest.mark.parametrize("extra", NAMED)
def test_the_command_has_the_libraries_of_the_extra_with_their_bounds(extra):
    words = re.findall(r'"(.*?)"', pip_install(extra))
    assert {word.replace("_", "-") for word in words} == {word.replace("_", "-") for word in EXTRAS[extra]}
    assert not any("setadam" in word for word in words)


def test_a_copy_without_metadata_names_the_extra_of_a_checkout(monkeypatch):
    def absent(_):
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(metadata, "requires", absent)
    assert pip_install("jax") == 'pip install ".[jax]"'


def test_markers_of_their_own_and_other_extras_are_left_out(monkeypatch):
    lines = ['a>=1; extra == "jax"', "b[c]>=2; extra == 'jax'", "d>=3; extra == 'jax2'", "numpy>=2"]
    monkeypatch.setattr(metadata, "requires", lambda _: lines)
    assert pip_install("jax") == 'pip install "a>=1" "b[c]>=2"'


def test_plots_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match='matplotlib: pip install "matplotlib>='):
        plots._figure(1, 1)
