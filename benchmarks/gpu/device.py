"""The CUDA devices of this machine, as its driver tells, without a framework."""

import ctypes


def names() -> list[str]:
    """The name of each device; none without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return []
    count, device, name = ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(256)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return []
    found = []
    for i in range(count.value):
        if driver.cuDeviceGet(ctypes.byref(device), i) or driver.cuDeviceGetName(name, len(name), device):
            continue
        found.append(name.value.decode(errors="replace"))
    return found
