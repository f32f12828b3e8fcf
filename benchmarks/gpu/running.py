"""Runs the parts, each in a process of its own with a limit of time."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.gpu.parts import NEEDS, RANKS, REPORT, TOOLS, Part

ROOT = Path(__file__).parents[2]
PASSED, FAILED, ABSENT, NOT_RUN = "passed", "failed", "not there", "not run"
_KEPT = 6000  # characters of a failing part's output
_COUNTED = re.compile(r"(\d+) (passed|failed|skipped|error)")


@dataclass
class Outcome:
    """What came of a part. data: the figures that it wrote."""

    name: str
    status: str
    words: str
    seconds: float = 0.0
    output: str = ""
    data: dict[str, Any] = field(default_factory=dict)


@cache
def absent(need: str) -> str | None:
    """Why something is not there; None if it is."""
    if need in TOOLS:
        return None if shutil.which(need) else f"{need} is not on the path"
    try:
        done = subprocess.run(
            [sys.executable, "-c", NEEDS[need]], cwd=ROOT, capture_output=True, text=True, timeout=120
        )
    except subprocess.TimeoutExpired:
        return f"{need}: its import took longer than 120 s"
    return None if done.returncode == 0 else f"{need}: {_last_line(done.stderr)}"


def run_all(
    parts: Iterable[Part],
    devices: int,
    seconds: float,
    *,
    why_absent: Callable[[str], str | None] = absent,
    clock: Callable[[], float] = time.monotonic,
    say: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """All parts within so many seconds, one after the other: a part has what is left, and at most its own limit."""
    end, found = clock() + seconds, []
    for part in parts:
        reasons = [reason for need in part.needs if (reason := why_absent(need)) is not None]
        left = end - clock()
        if devices == 0 or reasons:
            outcome = Outcome(part.name, ABSENT, reasons[0] if devices else "this machine has no CUDA device")
        elif left < min(part.seconds, 10):
            outcome = Outcome(part.name, NOT_RUN, f"the {seconds:.0f} s for all parts were over")
        else:
            outcome = run(part, devices, min(part.seconds, left))
        found.append(outcome)
        say(outcome)
    return found


def run(part: Part, devices: int, seconds: float) -> Outcome:
    """One part. It is ended, with all that it has started, when its time is over."""
    with tempfile.TemporaryDirectory() as folder:
        report, output = Path(folder) / "report.json", Path(folder) / "output"
        command = [x.replace(REPORT, str(report)).replace(RANKS, str(devices)) for x in part.command]
        start, late = time.monotonic(), False
        with output.open("wb") as file:
            process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                late = True
            finally:
                _end(process)
        text = output.read_text(errors="replace")
        status, words = judged(part, process.returncode, text)
        if late:
            status, words = FAILED, f"took longer than {seconds:.0f} s"
        data: dict[str, Any] = {}
        if report.exists():
            try:
                data = json.loads(report.read_text())
            except ValueError:
                status, words = FAILED, f"{words} its figures are no JSON".strip()
        kept = text[-_KEPT:] if status == FAILED else ""
        return Outcome(part.name, status, words, time.monotonic() - start, kept, data)


def judged(part: Part, code: int, output: str) -> tuple[str, str]:
    """A part's status and a few words, by its exit code and, of tests, by how many passed."""
    if not part.tests:
        return (PASSED, "") if code == 0 else (FAILED, f"exit code {code}: {_last_line(output)}")
    counts = {name: int(n) for n, name in _COUNTED.findall(_last_line(output))}
    words = _last_line(output).strip("= ")
    if code == 0:
        return (PASSED, words) if counts.get("passed") else (ABSENT, f"{words}: {_first_skip(output)}")
    return FAILED, words


def summary(found: Iterable[Outcome]) -> Mapping[str, int]:
    """How many parts have each status."""
    counts = dict.fromkeys((PASSED, FAILED, ABSENT, NOT_RUN), 0)
    for outcome in found:
        counts[outcome.status] += 1
    return counts


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Its whole session: a part may have left processes of its own behind."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _first_skip(output: str) -> str:
    reasons = [line.partition(": ")[2] for line in output.splitlines() if line.startswith("SKIPPED")]
    return reasons[0] if reasons else "no test of it passed"
