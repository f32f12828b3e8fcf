"""`setadam-conformance`: the command line.

Exit codes: 0 conforming, 1 not conforming, 2 wrong arguments, 3 a library is missing, or a backend did not load or
broke the protocol, 4 nothing (or less than a property's minimum) ran, 5 the kit itself is at fault, 6 only the
interface does not conform. Ctrl-C outside the examples of a run: 130.
"""

import argparse
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from setadam_conformance.libraries import MissingLibraryError, needing_libraries
from setadam_conformance.running.loading import check_not_loading
from setadam_conformance.running.streams import make_tolerant

_BACKEND, _KIT, _INTERRUPTED = 3, 5, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    1 is a verdict, and also Python's exit code after an exception. So none leaves this function except argparse's
    SystemExit (0 or 2), and RuntimeError if a backend calls it while it is being loaded.
    """
    make_tolerant()
    try:
        commands = _commands()
    except MissingLibraryError as error:
        return _say(str(error), _BACKEND)
    except Exception as error:  # such as a working directory that is gone
        return _say(f"the kit cannot be imported: {type(error).__name__}: {error}", _KIT)
    check_not_loading()
    args = _parser(commands).parse_args(argv)
    try:
        return int(args.command(args))
    except KeyboardInterrupt:
        return _say("interrupted", _INTERRUPTED)
    except SystemExit as error:
        return _say(f"a backend ended the kit with SystemExit({error.code!r})", _BACKEND)
    except Exception:
        traceback.print_exc()
        return _say("the kit itself is at fault, so there is no verdict", _KIT)


def _commands() -> tuple[Any, ...]:
    """The modules of the commands. They are imported here so that a library that is missing is no verdict."""
    names = ("run", "listing", "explain", "replay", "selftest", "vectors", "report")
    return tuple(needing_libraries(f"commands.{name}") for name in names)


def _parser(commands: tuple[Any, ...]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="setadam-conformance", description=__doc__.partition("\n")[0])
    parsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in commands:
        command.add_to(parsers)
    return parser


def _say(text: str, code: int) -> int:
    print(f"setadam-conformance: {text}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
