"""What every backend must satisfy. A property is a function of a bench and a case, and its docstring gives the reason
and the source. Each module collects the properties that are judged in the same way. How many examples a property gets
is decided in `running`.
"""

from setadam_conformance.properties import contract, limits, oracle, recorded, rounding, sharded, symmetries
from setadam_conformance.properties.registry import PROPERTIES, Property

__all__ = ["PROPERTIES", "Property", "contract", "limits", "oracle", "recorded", "rounding", "sharded", "symmetries"]
