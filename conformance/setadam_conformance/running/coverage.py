"""How much of the table of dimensions a run has reached, measured on the examples that ran."""

from collections.abc import Mapping, Sequence

from setadam_conformance.cases import covering, dimensions
from setadam_conformance.properties import PROPERTIES
from setadam_conformance.protocol import Capabilities
from setadam_conformance.running.plan import Plan
from setadam_conformance.running.results import Cell, Coverage

_SHOWN = 5


def coverage(planned: Sequence[Plan], done: Sequence[Cell], claims: Mapping[str, Capabilities]) -> dict[str, Coverage]:
    """The coverage of each backend on which rows of the table were planned, by the backend's name."""
    found = {}
    for name, dtypes, strength in dict.fromkeys((p.source.name, p.among, p.strength) for p in planned if p.strength):
        rows = [row for cell in done if cell.backend == name for row in cell.rows]
        met = covering.Coverage(dimensions.classes(claims[name], dtypes), rows)
        missing = [f"{d} {c}" for d, c in sorted(met.classes - met.met_classes)]
        if strength == 2 and not missing:
            missing = [f"{a} {x} with {b} {y}" for (a, x), (b, y) in sorted(met.pairs - met.met_pairs)]
        found[name] = Coverage(
            len(met.met_classes),
            len(met.classes),
            len(met.met_pairs),
            len(met.pairs),
            "pairs" if strength == 2 else "classes",
            missing[:_SHOWN],
        )
    return found


def gaps(found: Mapping[str, Coverage], done: Sequence[Cell]) -> list[Cell]:
    """A vacuous cell for each backend that passed all its rows, and did not get all that are required."""
    return [
        Cell(
            "coverage",
            name,
            "any",
            status="vacuous",
            reason=f"these {'pairs' if ' with ' in it.missing[0] else 'classes'} did not run: {', '.join(it.missing)}",
        )
        for name, it in found.items()
        if it.missing
        and all(
            c.status == "pass"
            for c in done
            if c.property in PROPERTIES and c.backend == name and PROPERTIES[c.property].covers
        )
    ]
