"""`make census`: judges the published Adams that are installed here, and writes docs/census.md.

    python conformance/census [NAME ...] [--profile quick] [--write PATH]

The exit code is 0 if every verdict is what `expectations.toml` says, and 1 if a release has changed one. The file says
what the default profile finds; `quick` is for a look, and finds less.
"""

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # for a folder that is run, Python does not add it

import judge
import page
from programs import PROGRAMS

from setadam_conformance.running import backends

ROOT = Path(__file__).parents[2]


def main() -> int:
    """Judge all, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--profile", default="default", choices=["quick", "default"])
    parser.add_argument("--write", type=Path, default=ROOT / "docs" / "census.md")
    parser.add_argument("--reports", type=Path, default=ROOT / "reports" / "census")
    args = parser.parse_args()
    sources = backends.published().values()
    judged: list[judge.Judged] = []
    missing: dict[str, str] = {}
    for name in args.names or dict.fromkeys(source.framework for source in sources):
        one = judge.judge(name, name, args.profile, args.reports)
        if all(backend.missing for backend in one.run.backends):
            missing[name] = one.run.backends[0].missing
            continue
        for backend in one.run.backends:
            if not backend.missing and backend.name in backends.published():
                one.without[backend.name] = judge.without_claims(backends.published()[backend.name])
        judged.append(one)
    for program in () if args.names else PROGRAMS:
        if program.missing:
            missing[program.name] = program.missing
            continue
        one = judge.judge(program.backend, program.name, args.profile, args.reports)
        for backend in one.run.backends:
            backend.name, backend.versions = program.name, {program.package: program.version}
        for cell in one.run.cells:
            cell.backend = program.name
        judged.append(one)
    changed = [one.name for one in judged if one.run.exit_code != 0]
    page.write(args.write, judged, datetime.now(UTC).date().isoformat(), missing)
    print("\n".join(f"{name}: not as expected" for name in changed) or "all as expected")
    return 1 if changed else 0


if __name__ == "__main__":
    raise SystemExit(main())
