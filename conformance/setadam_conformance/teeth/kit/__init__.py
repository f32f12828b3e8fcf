"""Faults of the kit itself (`faults.py`), and the checks that must notice them (`checks.py`). No fault of an
implementation is here.
"""

from setadam_conformance.teeth.kit.faults import KIT_FAULTS, check_kit

__all__ = ["KIT_FAULTS", "check_kit"]
