"""The properties. Each is a function of a bench and a case, with its reason and source in its docstring;
the module that it stands in says what it takes to judge it.
"""

from setadam_conformance.properties import contract, limits, oracle, recorded, sharded, symmetries
from setadam_conformance.properties.registry import PROPERTIES, Property

__all__ = ["PROPERTIES", "Property", "contract", "limits", "oracle", "recorded", "sharded", "symmetries"]
