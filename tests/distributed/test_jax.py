"""Sharded JAX arrays, on eight host devices and in two processes. See jax_programs."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

jax = pytest.importorskip("jax")
import jax.numpy as jnp  # noqa: E402

from setadam_jax import set_adam  # noqa: E402

PROGRAMS = str(Path(__file__).with_name("jax_programs.py"))


def start(devices, *arguments):
    env = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        [sys.executable, PROGRAMS, *arguments], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def passed(*processes, timeout=100):
    """A deadlock ends with TimeoutExpired; no process is left behind."""
    try:
        for process in processes:
            said, _ = process.communicate(timeout=timeout)
            assert process.returncode == 0, said
            assert said.endswith("passed\n")
    finally:
        for process in processes:
            process.kill()


@pytest.mark.parametrize(
    "program",
    [
        "jit_over_meshes",
        "uneven_shapes_under_jit",
        "shard_map_with_names",
        "shard_map_between_layers",
        "restored_into_another_sharding",
    ],
)
def test_on_eight_devices(program):
    passed(start(8, program))


def test_in_two_processes(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        (tmp_path / "port").write_text(str(free.getsockname()[1]))
    passed(*[start(2, "two_processes", str(i), str(tmp_path)) for i in range(2)])


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        (3, TypeError, "axis_name must be None, a name or a tuple of names, got 3"),
        (("i", "i"), ValueError, "axis_name must name each axis once"),
        ("elsewhere", ValueError, "axis_name must name axes that are mapped here.*'elsewhere'"),
    ],
)
def test_names_are_checked(name, error, words):
    optimizer = set_adam(0.1, axis_name=name)
    params = {"w": jnp.ones((2, 3))}
    state = optimizer.init({"w": jnp.ones(3)})
    with pytest.raises(error, match=words):
        jax.vmap(lambda p: optimizer.update({"w": p}, state, {"w": p}), axis_name="i")(params["w"])
