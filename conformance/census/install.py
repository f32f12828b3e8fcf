"""Installs what the census judges: the extra "census" of pyproject.toml, one requirement after another.

A library that cannot be had here is left out, and said. One whose own requirements cannot be had is installed without
them: timm needs torchvision, and its optimizers do not.
"""

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def main() -> None:
    """Install every requirement that can be had."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for requirement in project["optional-dependencies"]["census"]:
        if not (_pip(requirement) or _pip("--no-deps", requirement)):
            print(f"{requirement} cannot be had here", file=sys.stderr)


def _pip(*arguments: str) -> bool:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*command, "-c", str(ROOT / "constraints.txt"), *arguments], capture_output=True, check=False)
    return done.returncode == 0


if __name__ == "__main__":
    main()
