"""Test vectors: single steps with exact outputs and bounds, for implementations in any language.

The vectors are in `conformance/vectors/`, one JSON file for each dtype; the README there says how to use them without
this package. `generate` writes the files, `lint` checks them, and `check` runs a backend on them. `check` judges only
by the stored values, in exact rational arithmetic, and does not use the oracle.
"""

from setadam_conformance.vectors.checking import Vector, VectorResult, check, load, vectors_folder
from setadam_conformance.vectors.files import generate
from setadam_conformance.vectors.linting import lint

__all__ = ["Vector", "VectorResult", "check", "generate", "lint", "load", "vectors_folder"]
