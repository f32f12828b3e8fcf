"""What all tests share: Hypothesis's profiles, and skipping what needs a GPU where there is none."""

import ctypes
from functools import cache

import pytest
from hypothesis import settings

# The same examples everywhere and every time. Look further with `--hypothesis-profile explore`.
settings.register_profile("fixed", deadline=None, derandomize=True, database=None, print_blob=True)
settings.register_profile("explore", deadline=None, max_examples=2000, print_blob=True)
settings.load_profile("fixed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes a minute by itself begins first: else one worker is left with it when the other has nothing to do."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not _cuda_devices():
        pytest.skip("needs a CUDA device, and this machine has none")


@cache
def _cuda_devices() -> int:
    """How many devices the driver sees, asked without importing a framework."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value
