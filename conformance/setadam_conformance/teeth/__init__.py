"""The kit's own proof: wrong implementations that it must reject, correct ones that it must accept, and faults of
the kit itself that its checks must notice. `selftest.py` runs all three. No backend is judged here.
"""

from setadam_conformance.teeth.faults import FAULTS, Fault
from setadam_conformance.teeth.kit import KIT_FAULTS, check_kit
from setadam_conformance.teeth.variants import VARIANTS, Variant

__all__ = ["FAULTS", "KIT_FAULTS", "VARIANTS", "Fault", "Variant", "check_kit"]
