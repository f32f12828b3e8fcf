"""Published Adams behind the line protocol: what starts each, and the version of its library."""

import atexit
import json
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "examples" / "adapters" / "programs"


@dataclass(frozen=True)
class Program:
    """A program in examples/adapters/programs. package: the npm package whose Adam it hands its inputs to."""

    name: str
    package: str
    file: str
    argument: str = ""

    @property
    def backend(self) -> str:
        """What `--backend` takes."""
        return f"cmd:node {FOLDER / self.file} {self.argument}".strip()

    @property
    def missing(self) -> str:
        """Why it cannot run here; empty if it can."""
        if shutil.which("node") is None:
            return "it needs node"
        return (
            "" if self._manifest.exists() else f"it needs `npm install` in examples/adapters/programs ({self.package})"
        )

    @property
    def version(self) -> str:
        return str(json.loads(self._manifest.read_text(encoding="utf-8"))["version"])

    @property
    def _manifest(self) -> Path:
        return FOLDER / "node_modules" / self.package / "package.json"


@dataclass(frozen=True)
class Compiled:
    """torch's C++ frontend: the same interface as a program of Node.js, and it is compiled first."""

    name: str
    argument: str
    package: str = "torch"

    @property
    def backend(self) -> str:
        """What `--backend` takes."""
        return f"cmd:{_built()} {self.argument}"

    @property
    def missing(self) -> str:
        """Why it cannot run here; empty if it can."""
        if shutil.which("g++") is None or find_spec("torch") is None:
            return "it needs g++ and torch"
        return "" if _built() else "it did not compile with the command at the head of torch_adam.cpp"

    @property
    def version(self) -> str:
        return version("torch")


@cache
def _built() -> str:
    """The program, compiled into a folder that ends with this process; empty if that fails."""
    import torch

    folder = tempfile.TemporaryDirectory(prefix="census-")
    atexit.register(folder.cleanup)
    root, program = Path(torch.__path__[0]), Path(folder.name) / "torch_adam"
    headers = [f"-I{root / 'include'}", f"-I{root / 'include' / 'torch' / 'csrc' / 'api' / 'include'}"]
    libraries = [f"-L{root / 'lib'}", f"-Wl,-rpath,{root / 'lib'}", "-ltorch", "-ltorch_cpu", "-lc10"]
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
    command = [
        "g++",
        "-std=c++20",
        "-O1",
        abi,
        *headers,
        str(FOLDER / "torch_adam.cpp"),
        "-o",
        str(program),
        *libraries,
    ]
    return str(program) if subprocess.run(command, check=False).returncode == 0 else ""


PROGRAMS: tuple[Program | Compiled, ...] = (
    Compiled("libtorch Adam", "adam"),
    Compiled("libtorch AdamW", "adamw"),
    Program("TensorFlow.js adam", "@tensorflow/tfjs", "tfjs_adam.mjs"),
    Program("js-pytorch Adam", "js-pytorch", "js_pytorch_adam.mjs"),
    Program("Deepbox Adam", "deepbox", "deepbox_adam.mjs", "adam"),
    Program("Deepbox AdamW", "deepbox", "deepbox_adam.mjs", "adamw"),
)
