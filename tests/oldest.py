"""Prints the oldest releases that pyproject.toml allows, as constraints for pip: python tests/oldest.py EXTRA ...

`make test-oldest` installs them. The bounds stand in pyproject.toml alone.
"""

import re
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

PROJECT = tomllib.loads(Path(__file__).parents[1].joinpath("pyproject.toml").read_text(encoding="utf-8"))["project"]
OWN_EXTRAS = re.compile(r"setadam\[([\w,]+)\]")
BOUND = re.compile(r"(?P<name>[\w.-]+)(?:\[[\w,-]+\])?>=(?P<version>\d+(?:\.\d+)*)(?P<marker> *;.*)?")


def requirements(extras: Sequence[str]) -> Iterator[str]:
    """What the distribution and these extras require, those that they include among them."""
    yield from PROJECT["dependencies"]
    for extra in extras:
        for required in PROJECT["optional-dependencies"][extra]:
            own = OWN_EXTRAS.fullmatch(required)
            yield from requirements(own[1].split(",")) if own else (required,)


def numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def oldest(extras: Sequence[str]) -> dict[tuple[str, str], str]:
    """The oldest release of each distribution that these extras allow, by its normalized name and its marker.

    Raises
    ------
    ValueError : a requirement that is not a name and one lower bound.
    """
    found: dict[tuple[str, str], str] = {}
    for required in requirements(extras):
        bound = BOUND.fullmatch(required)
        if bound is None:
            raise ValueError(f"a requirement must be a name and one lower bound, got {required!r}")
        key = re.sub(r"[-_.]+", "-", bound["name"]).lower(), bound["marker"] or ""
        found[key] = max(found.get(key, "0"), bound["version"], key=numbers)
    return found


if __name__ == "__main__":
    for (name, marker), version in oldest(sys.argv[1:]).items():
        print(f"{name}=={version}{marker}")
