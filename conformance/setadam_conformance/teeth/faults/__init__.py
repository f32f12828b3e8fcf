"""Wrong implementations that the kit must reject, each a line or two of the reference changed. `declare.py` has the
function that declares one, and importing this package fills FAULTS. Nothing here judges.
"""

from setadam_conformance.teeth.faults import adam, denominator, descent, interface, layout, refusals, rounding
from setadam_conformance.teeth.faults.declare import ALL_DTYPES, FAULTS, Fault

__all__ = [
    "ALL_DTYPES",
    "FAULTS",
    "Fault",
    "adam",
    "denominator",
    "descent",
    "interface",
    "layout",
    "refusals",
    "rounding",
]
