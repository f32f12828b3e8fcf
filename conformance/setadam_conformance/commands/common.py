"""What the commands share: argument types, and the reporting of errors."""

import argparse
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from setadam_conformance.properties import PROPERTIES, Property
from setadam_conformance.protocol import ProtocolError
from setadam_conformance.running.backends import BackendError
from setadam_conformance.running.expectations import ExpectationError
from setadam_conformance.verdicts import BACKEND, USAGE

Command = Callable[[argparse.Namespace], int]
Parsers = Any  # what `ArgumentParser.add_subparsers` returns: argparse has no public name for it


class UsageError(Exception):
    """An argument that the parser could not check."""


def reporting_errors(command: Command) -> Command:
    """The command, with its errors printed in one line on stderr and turned into exit codes."""

    @wraps(command)
    def wrapped(args: argparse.Namespace) -> int:
        try:
            return command(args)
        except (UsageError, ExpectationError) as error:
            print(f"setadam-conformance: {error}", file=sys.stderr)
            return USAGE
        except (BackendError, ProtocolError) as error:
            print(f"setadam-conformance: {error}", file=sys.stderr)
            return BACKEND

    return wrapped


def check_writable(option: str, *files: Path) -> None:
    """Make the folders of files that will be written, and check before the work that they can be. Raises UsageError."""
    for file in files:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            is_new = not file.exists()
            file.open("ab").close()
            if is_new:
                file.unlink()
        except (OSError, ValueError) as error:  # ValueError: a null character in the name
            why = "its folder is a file" if isinstance(error, FileExistsError | NotADirectoryError) else error
            raise UsageError(f"{option}: cannot write {file}: {getattr(why, 'strerror', None) or why}") from error


def property_named(name: str) -> Property:
    """The property of that name. Raises UsageError."""
    if name not in PROPERTIES:
        raise UsageError(f"no property is called {name!r}; known: {', '.join(PROPERTIES)}")
    return PROPERTIES[name]


def positive(text: str) -> int:
    """An argument type: a whole number ≥ 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number ≥ 1, got {text!r}")
    return int(text)


def seconds(text: str) -> int:
    """An argument type: a whole number of seconds that every timer can count."""
    number = positive(text)
    if number > 1_000_000:
        raise argparse.ArgumentTypeError(f"must be at most 1000000, which is 11 days, got {text!r}")
    return number
