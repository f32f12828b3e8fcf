"""Reading the files that a user gives: UTF-8, whatever the locale."""

import codecs
import json
from pathlib import Path
from typing import Any

_OTHERS = {
    codecs.BOM_UTF32_LE: "UTF-32",  # begins with the mark of UTF-16, so it is first
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, with or without a byte order mark. Raises OSError, and ValueError if it is not."""
    data = path.read_bytes()
    for mark, name in _OTHERS.items():
        if data.startswith(mark):
            raise ValueError(f"{path} must be in UTF-8, got {name}")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        at, found = error.start, data[error.start]
        raise ValueError(f"{path} must be in UTF-8, but its byte {at} is {found:#04x}: save it as UTF-8") from None


def read_json(path: Path) -> Any:
    """The JSON value in a file. Raises OSError, and ValueError if it is not JSON in UTF-8."""
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} must be JSON: {error}") from None
