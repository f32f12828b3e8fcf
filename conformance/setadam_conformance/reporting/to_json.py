"""A run as JSON, "setadam-report/2", as described in docs/report-format.md and report.schema.json.

JSON has no NaN or infinity, so they are the strings "nan", "inf" and "-inf".
"""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from setadam_conformance.running.results import Backend, Cell, Coverage, Diagnosis, Failure, Run, Stage, Trace, TraceRow

SCHEMA = "setadam-report/2"


def to_json(run: Run) -> dict[str, Any]:
    """The run as JSON values."""
    encoded = _encode(asdict(run))
    for cell in encoded["cells"]:
        del cell["rows"]  # summed up in each backend's coverage
    return {"schema": SCHEMA, **encoded}


def from_json(data: dict[str, Any]) -> Run:
    """The inverse of `to_json`. Raises ValueError if the data is not such a report."""
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema != SCHEMA:
        raise ValueError(f"schema must be {SCHEMA!r}, got {schema!r}")
    fields = {k: x for k, x in data.items() if k != "schema"}
    try:
        fields["shard"] = tuple(fields["shard"])
        fields["backends"] = [_backend(backend) for backend in fields["backends"]]
        fields["cells"] = [_cell(cell) for cell in fields["cells"]]
        return Run(**fields)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"a field is missing, unknown or of the wrong kind: {error}") from error


def write_json(run: Run, path: Path) -> None:
    """Write the report."""
    text = json.dumps(to_json(run), indent=1, ensure_ascii=False, allow_nan=False)
    # UTF-8 has no lone surrogates; their backslash escape is that of JSON.
    path.write_text(text, encoding="utf-8", errors="backslashreplace")


def _backend(data: dict[str, Any]) -> Backend:
    found = data.get("coverage")
    return Backend(**{**data, "coverage": Coverage(**found) if found else None})


def _cell(data: dict[str, Any]) -> Cell:
    data = dict(data)
    if data["failure"] is not None:
        failure = dict(data["failure"])
        for name in ("expected", "got", "ratio"):
            failure[name] = _number(failure[name])
        failure["diagnosis"] = _diagnosis(failure["diagnosis"])
        data["failure"] = Failure(**failure)
    data["ratio"] = _number(data["ratio"])
    data["stages"] = {
        name: Stage(**{k: _number(x) for k, x in stage.items()}) for name, stage in data["stages"].items()
    }
    data["sample"] = [(d, t, *map(_number, ratios)) for d, t, *ratios in data["sample"]]
    return Cell(**data)


def _diagnosis(data: dict[str, Any] | None) -> Diagnosis | None:
    if data is None:
        return None
    if data["trace"] is None:
        return Diagnosis(**data)
    rows = [
        TraceRow(
            **{**row, **{k: list(map(_number, row[k])) for k in ("expected", "got")}, "ratio": _number(row["ratio"])}
        )
        for row in data["trace"]["rows"]
    ]
    return Diagnosis(**{**data, "trace": Trace(**{**data["trace"], "rows": rows})})


def _number(x: Any) -> Any:
    return float(x) if isinstance(x, str) else x


def _encode(x: Any) -> Any:
    if isinstance(x, float) and not math.isfinite(x):
        return str(x)
    if isinstance(x, dict):
        return {k: _encode(value) for k, value in x.items()}
    if isinstance(x, list | tuple):
        return [_encode(value) for value in x]
    return x
