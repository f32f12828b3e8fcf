"""The code on a page, by its heading, and how to run it: as a program of its own, in an empty folder."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def blocks(page: str, language: str) -> dict[str, str]:
    """The blocks of code below each heading: "Schedule-free", and "Schedule-free, 2" for the second one."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found: dict[str, str] = {}
    title = ""
    for fence, code, heading in re.findall(r"^```(\w+)\n(.*?)^```$|^#+ (.*?)$", text, flags=re.DOTALL | re.MULTILINE):
        title = heading or title
        if fence == language:
            count = sum(name.partition(", ")[0] == title for name in found)
            found[f"{title}, {count + 1}" if count else title] = code
    return found


def run(*command: str | Path, folder: Path) -> str:
    """What a program prints. AssertionError with its messages if it fails."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_python(code: str, folder: Path) -> str:
    return run(sys.executable, "-c", code, folder=folder)
