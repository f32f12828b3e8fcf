"""Published Adams behind the line protocol: what starts each, and the version of its library."""

import json
import shutil
from dataclasses import dataclass
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


PROGRAMS = (
    Program("TensorFlow.js adam", "@tensorflow/tfjs", "tfjs_adam.mjs"),
    Program("js-pytorch Adam", "js-pytorch", "js_pytorch_adam.mjs"),
    Program("Deepbox Adam", "deepbox", "deepbox_adam.mjs", "adam"),
    Program("Deepbox AdamW", "deepbox", "deepbox_adam.mjs", "adamw"),
)
