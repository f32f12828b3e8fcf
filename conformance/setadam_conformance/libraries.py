"""Importing the kit where the libraries that it needs may not be installed."""

import importlib
from typing import Any


class MissingLibraryError(ImportError):
    """A library that the kit needs is not installed. The message says what to install."""


def needing_libraries(module: str) -> Any:
    """A module of the kit that needs the libraries of `setadam[conformance]`.

    Raises MissingLibraryError if one of them is not installed.
    """
    try:
        return importlib.import_module(f"setadam_conformance.{module}")
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library.startswith("setadam"):
            raise
        from setadam_core.extras import pip_install

        raise MissingLibraryError(f"the kit needs {library}: `{pip_install('conformance')}` installs it") from error
