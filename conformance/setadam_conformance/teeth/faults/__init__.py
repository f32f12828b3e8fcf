"""Wrong implementations, each a line or two of the reference changed, that the kit must reject. `declare.py` says
how one is written; importing this package fills FAULTS. Nothing here judges.
"""

from setadam_conformance.teeth.faults import denominator, descent, interface, layout
from setadam_conformance.teeth.faults.declare import ALL_DTYPES, FAULTS, Fault

__all__ = ["ALL_DTYPES", "FAULTS", "Fault", "denominator", "descent", "interface", "layout"]
