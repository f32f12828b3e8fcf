"""The wheel that a clean checkout builds: what it holds, and what it leaves out."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("hatchling")
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Built offline from what git has of HEAD, so that no untracked file can help."""
    folder = tmp_path_factory.mktemp("export")
    archive = subprocess.run(["git", "archive", "HEAD", "-o", folder / "head.tar"], cwd=ROOT, capture_output=True)
    if archive.returncode:
        pytest.skip(f"not a git checkout: {archive.stderr.decode().strip()}")
    with tarfile.open(folder / "head.tar") as tar:
        tar.extractall(folder / "head", filter="data")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder / "dist")]
    subprocess.run(build, cwd=folder / "head", capture_output=True, check=True)
    (path,) = (folder / "dist").glob("*.whl")
    return zipfile.ZipFile(path)


def test_top_level_holds_only_setadam(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    packages = {top for top in tops if not top.endswith(".dist-info")}
    assert len(tops - packages) == 1
    assert {"setadam_core", "setadam_conformance"} <= packages
    assert all(package.startswith("setadam_") for package in packages)


def test_every_package_of_the_repository_is_shipped(wheel: zipfile.ZipFile) -> None:
    """Each setadam_* folder that git tracks, whichever part of the tree it is in."""
    listed = subprocess.run(
        ["git", "ls-tree", "-r", "--name-only", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    tracked = [Path(line) for line in listed.stdout.splitlines() if line.endswith(".py")]
    sources = {
        "/".join(path.parts[i:])
        for path in tracked
        for i in range(len(path.parts) - 1)
        if path.parts[i].startswith("setadam_") and path.parts[0] in ("backends", "conformance", path.parts[i])
    }
    assert sources <= set(wheel.namelist())
    assert "setadam_core/spec.py" in sources


def test_typed_and_licensed(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    packages = {name.split("/")[0] for name in names if name.endswith("/__init__.py")}
    assert {"setadam_core", "setadam_conformance", "setadam_jax", "setadam_numpy"} <= packages
    assert {f"{package}/py.typed" for package in packages} <= set(names)
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
