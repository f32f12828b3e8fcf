"""The SET-Adam conformance kit: it judges any implementation of the step within derived error bounds.

A backend implements `protocol`. A user runs `cli`, calls `check_conformance` (`in_python`), or runs pytest
(`pytest_plugin`); what these share is in `verdicts`. A folder imports only from the folders to its right:

    commands, in_python → verdicts, teeth, reporting → running → properties, vectors → judging, adapters → cases
        → protocol

No framework is imported until a backend that needs it is selected.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from setadam_conformance.in_python import ConformanceError, check_conformance

__all__ = ["ConformanceError", "check_conformance"]


def __getattr__(name: str) -> Any:
    """The functions, imported when they are used: an adapter that imports `protocol` needs only NumPy."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from setadam_conformance.libraries import needing_libraries

    return getattr(needing_libraries("in_python"), name)
