"""Standard streams that cannot fail: a verdict must not depend on who reads the output.

A reader that went away (`| head -1`), a stdout that is closed or full, or a terminal without Greek letters would raise
an error in the middle of a run, and Python would end with 1, which is the exit code of a verdict.
"""

import io
import os
import sys
from typing import Any


def make_tolerant() -> None:
    """Let stdout and stderr of this process drop what cannot be written, and replace symbols that they cannot encode.

    A stream that is closed is opened on the null device: otherwise the next file would get its descriptor. Streams that
    a caller has put in the place of the standard ones are left alone.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest free descriptor, so this one
            os.set_inheritable(opened, True)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__"):
            setattr(sys, name, _tolerant(stream, descriptor))


def _tolerant(stream: Any, descriptor: int) -> io.TextIOWrapper:
    """A stream in the place of `stream`, which is None if Python found the descriptor closed."""
    if stream is None:
        raw, encoding = io.FileIO(descriptor, "w", closefd=False), "utf-8"
    else:
        raw, encoding = getattr(stream.buffer, "raw", stream.buffer), stream.encoding  # `python -u` has no buffer
    buffer = io.BufferedWriter(_Lossy(raw))
    return io.TextIOWrapper(buffer, encoding=encoding, errors="replace", line_buffering=True)


class _Lossy(io.RawIOBase):
    """A raw stream that drops what cannot be written."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def write(self, data: Any) -> int | None:
        try:
            written: int | None = self._raw.write(data)
        except OSError:
            return len(data)
        return written

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return int(self._raw.fileno())

    def isatty(self) -> bool:
        return bool(self._raw.isatty())
