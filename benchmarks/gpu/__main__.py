"""Everything that only a GPU can show, in under 20 minutes: `make gpu`.

Each part runs in a process of its own. The summary says what passed, what failed and what was not there, and goes with
all figures to benchmarks/results/DATE-DEVICE.md and .json, to be committed. The exit code is 1 if a part failed or
was not run, and 0 otherwise, also where there is no device.
"""

import argparse
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.gpu import device, report, running
from benchmarks.gpu.parts import PARTS, SECONDS, Part


def main(
    arguments: Sequence[str] | None = None, parts: Sequence[Part] = PARTS, devices: Sequence[str] | None = None
) -> int:
    """Run, print, write; the exit code. devices: as `device.names`, which is asked if they are not given."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", default=[], metavar="WORD", help="parts whose name has the word")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"for all parts together (default: {SECONDS})")
    parser.add_argument("--folder", type=Path, default=report.RESULTS, help="for the report")
    asked = parser.parse_args(arguments)
    chosen = [part for part in parts if not asked.only or any(word in part.name for word in asked.only)]
    if not chosen:
        parser.error(f"--only: no part has {asked.only} in its name; there are {[part.name for part in parts]}")

    here = device.names() if devices is None else list(devices)
    print(f"{len(here)} CUDA devices{''.join(f', {name}' for name in here)}", flush=True)
    say = (lambda outcome: print(f"{outcome.status}: {outcome.name}", flush=True)) if here else (lambda outcome: None)
    found = running.run_all(chosen, len(here), asked.seconds, say=say)
    print("\n" + report.text(report.HEAD, report.rows(found)) + f"\n\n{report.counted(found)}")
    if not here:
        print("Nothing was run or written: this needs a machine with a CUDA device and its driver.")
        return 0
    path = report.save(report.environment(datetime.now(UTC).strftime("%Y-%m-%d"), here), found, asked.folder)
    print(f"written: {path}.md, .json")
    counts = running.summary(found)
    return 1 if counts[running.FAILED] or counts[running.NOT_RUN] else 0


if __name__ == "__main__":
    raise SystemExit(main())
