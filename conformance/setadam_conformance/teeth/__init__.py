"""The kit's own proof: wrong implementations that it must reject, right ones that it must not, and faults of
the kit itself that its checks must notice. `selftest.py` shows all three.
"""

from setadam_conformance.teeth import faults, interface_faults, layout_faults
from setadam_conformance.teeth.kit_faults import KIT_FAULTS, check_kit
from setadam_conformance.teeth.seeded import FAULTS, Fault
from setadam_conformance.teeth.variants import VARIANTS, Variant

__all__ = [
    "FAULTS",
    "KIT_FAULTS",
    "VARIANTS",
    "Fault",
    "Variant",
    "check_kit",
    "faults",
    "interface_faults",
    "layout_faults",
]
