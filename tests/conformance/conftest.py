from collections.abc import Callable, Iterator

import numpy as np
import pytest
from setadam_conformance.adapters.spec import NumPySpec
from setadam_conformance.backends import Source
from setadam_conformance.results import Cell
from setadam_conformance.runner import PROFILES, check, plan


@pytest.fixture(autouse=True)
def _quiet_floating_point() -> Iterator[None]:
    """Cases reach into overflow on purpose."""
    with np.errstate(all="ignore"):
        yield


@pytest.fixture
def verdicts() -> Callable[..., dict[str, Cell]]:
    """Run properties on an adapter object in this process; cells by property."""

    def run(adapter, dtype="float32", properties=(), profile="quick", **options) -> dict[str, Cell]:
        from setadam_conformance.properties import PROPERTIES

        source = Source(adapter.name, adapter.framework, "none:none")
        cells = plan({source: adapter}, profile=PROFILES[profile], dtypes=(dtype,), properties=properties, **options)
        return {cell.property: check(PROPERTIES[cell.property], adapter, cell) for cell in cells}

    return run


@pytest.fixture
def spec() -> NumPySpec:
    return NumPySpec()
