"""What a release uploads, built from a clean checkout: what it holds, what it leaves out, and its page on PyPI."""

import re
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

pytestmark = pytest.mark.xdist_group("wheel")
for module in ("build", "hatchling", "hatch_fancy_pypi_readme", "twine"):
    pytest.importorskip(module)
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an sdist and of the wheel made from it: offline, from what git has of HEAD, so that untracked files
    cannot help.
    """
    folder = tmp_path_factory.mktemp("export")
    archive = subprocess.run(["git", "archive", "HEAD", "-o", folder / "head.tar"], cwd=ROOT, capture_output=True)
    if archive.returncode:
        pytest.skip(f"not a git checkout: {archive.stderr.decode().strip()}")
    with tarfile.open(folder / "head.tar") as tar:
        tar.extractall(folder / "head", filter="data")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist")]
    subprocess.run(build, cwd=folder / "head", capture_output=True, check=True)
    return folder / "dist"


@pytest.fixture(scope="module")
def wheel(built: Path) -> zipfile.ZipFile:
    (path,) = built.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return message_from_bytes(wheel.read(name))


def test_twine_accepts_both(built: Path) -> None:
    files = sorted(map(str, built.iterdir()))
    assert len(files) == 2
    done = subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_nothing_on_the_page_is_relative(metadata: Message) -> None:
    page = metadata.get_payload(decode=True).decode()
    targets = re.findall(r"\]\(([^)]*)\)", page)
    assert all(target.startswith(("https://", "#")) for target in targets), targets


def test_the_page_is_otherwise_readmes(built: Path, metadata: Message) -> None:
    """Code and headings are as they were, since a substitution might have found a link in them."""
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as tar:
        readme = tar.extractfile(f"{sdist.name.removesuffix('.tar.gz')}/README.md").read().decode()
    page = metadata.get_payload(decode=True).decode()
    for kept in (r"```.*?```", r"^    .*?$", r"^#.*?$"):
        found = [re.findall(kept, text, flags=re.DOTALL | re.MULTILINE) for text in (page, readme)]
        assert found[0] == found[1]
        assert found[0]


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
