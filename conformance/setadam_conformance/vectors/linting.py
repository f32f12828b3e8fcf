"""Checks of the vector files, for whoever edits them."""

import json
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any, NoReturn

from setadam_conformance.cases.case import Case, case_from_json
from setadam_conformance.vectors.catalogue import FLAGS
from setadam_conformance.vectors.files import DTYPES, oracle_values, vector_id

MINIMUM = 300  # vectors in all files together
COMPLEX_DTYPES = ("float64", "float32")
AGREEMENT = 8  # the oracle and a stored value may differ by 1/8 of the bound


def lint(folder: Path) -> list[str]:
    """The problems of the vector files in a folder, as sentences; empty if there are none.

    The files must match the schema and contain no JSON floats. Ids must be the hashes of their cases, unique, and not
    withdrawn. Slugs must be unique, and counts right. Each flag must have a note, and each flag of the catalogue must
    occur in each file. The stored outputs must agree within bound/8 with the oracle, which did not produce them.
    """
    import jsonschema

    schema = json.loads((folder / "schema.json").read_text(encoding="utf-8"))
    withdrawn = json.loads((folder / "withdrawn.json").read_text(encoding="utf-8"))
    validator = jsonschema.Draft202012Validator(schema)
    problems: list[str] = []
    ids: Counter[str] = Counter()
    for dtype in DTYPES:
        path = folder / f"{dtype}.json"
        try:
            data = json.loads(path.read_text(encoding="utf-8"), parse_float=_refuse, parse_constant=_refuse)
        except (OSError, ValueError) as error:
            problems.append(f"{path.name}: {error}")
            continue
        errors = [f"{'/'.join(map(str, e.absolute_path))}: {e.message[:200]}" for e in validator.iter_errors(data)]
        if errors:  # the other checks rely on the structure
            problems.extend(f"{path.name}: {error}" for error in errors)
            continue
        ids.update(vector["id"] for vector in data["vectors"])
        problems.extend(f"{path.name}: {problem}" for problem in _lint_file(data, dtype, withdrawn))
    problems.extend(f"id {identity} occurs {n} times" for identity, n in ids.items() if n > 1)
    if ids.total() < MINIMUM:
        problems.append(f"{ids.total()} vectors in all, fewer than {MINIMUM}")
    return problems


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"the JSON number {text} is a float; numbers are hexadecimal strings or integers")


def _lint_file(data: dict[str, Any], dtype: str, withdrawn: dict[str, str]) -> list[str]:
    problems = []
    vectors = data["vectors"]
    if data["dtype"] != dtype:
        problems.append(f"dtype is {data['dtype']}")
    if data["count"] != len(vectors):
        problems.append(f"count is {data['count']}, but there are {len(vectors)} vectors")
    slugs = Counter(vector["slug"] for vector in vectors)
    problems.extend(f"slug {slug} occurs {n} times" for slug, n in slugs.items() if n > 1)

    used = {flag for vector in vectors for flag in vector["flags"]}
    problems.extend(f"flag {flag} has no note" for flag in sorted(used - set(data["notes"])))
    required = set(FLAGS) if dtype in COMPLEX_DTYPES else set(FLAGS) - {"complex"}
    problems.extend(f"no vector has the flag {flag}" for flag in sorted(required - used))

    for vector in vectors:
        found = _lint_vector(vector, dtype)
        if vector["id"] in withdrawn:
            found.append(f"the id was withdrawn: {withdrawn[vector['id']]}")
        problems.extend(f"{vector['id']} {vector['slug']}: {problem}" for problem in found)
    return problems


def _lint_vector(vector: dict[str, Any], dtype: str) -> list[str]:
    expected = vector_id(vector["case"])
    if vector["id"] != expected:
        return [f"the case's id is {expected}"]
    if vector["case"]["dtype"] != dtype:
        return [f"the case's dtype is {vector['case']['dtype']}"]
    try:
        case = case_from_json(vector["case"] | {"extra": {}})
    except ValueError as error:
        return [f"the case cannot be read: {error}"]
    out = vector.get("out", [])
    if len(out) != (len(case.layers) if vector["result"] == "value" else 0):
        return [f"{len(out)} outputs for {len(case.layers)} layers and the result {vector['result']}"]
    return [problem for index, stored in enumerate(out) for problem in _lint_output(stored, case, index)]


def _lint_output(stored: dict[str, Any], case: Case, index: int) -> list[str]:
    """Compare the oracle with the stored values of one layer."""
    layer = case.layers[index]
    if stored["param"] == "nan":
        return []
    problems = []
    for stage, values in oracle_values(case, layer).items():
        out = stored[stage]
        columns = [out["hi"], out["lo"], *out["bound"].values()]
        if any(len(column) != len(values) for column in columns):
            problems.append(f"{stage} of layer {index} must have {len(values)} entries everywhere")
            continue
        for i, value in enumerate(values):
            high, low, bound = (Fraction(float.fromhex(x[i])) for x in (out["hi"], out["lo"], out["bound"][""]))
            if AGREEMENT * abs(high + low - value) > bound:
                problems.append(
                    f"{stage} of layer {index} at {i}: the oracle gives {float(value)!r}, not {out['hi'][i]}"
                )
    return problems
