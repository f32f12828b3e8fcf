"""Sharded parameters on eight host devices, in a separate process, since JAX fixes the number of devices once."""

import os
import subprocess
import sys

PROGRAM = """
import re
from collections import Counter

import jax, jax.numpy as jnp, numpy as np, optax
from jax.sharding import NamedSharding, PartitionSpec as P
from setadam_jax import set_adam

assert jax.device_count() == 8
mesh = jax.make_mesh((4, 2), ("data", "model"))
optimizer = set_adam(1e-2, weight_decay=0.1)

@jax.jit
def step(params, state, grads):
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state

def tree(layers, seed):
    rng = np.random.default_rng(seed)
    return {f"layer{i}": rng.uniform(0.25, 2, (8, 4)).astype(np.float32) for i in range(layers)}

def place(tree):
    specs = [P("data"), P("data", "model"), P(None, "model"), P()]
    return {k: jax.device_put(x, NamedSharding(mesh, specs[int(k[5:]) % 4])) for k, x in tree.items()}

def collectives(layers):
    params, grads = place(tree(layers, 0)), place(tree(layers, 1))
    state = optimizer.init(params)
    for moments in (state[0].mu, state[0].nu):
        assert all(m.sharding.is_equivalent_to(params[k].sharding, 2) for k, m in moments.items())
    lowered = step.lower(params, state, grads)
    return Counter(re.findall(r" (all-[a-z]+|reduce-scatter|collective-[a-z]+)(?:-start)?[(]",
                              lowered.compile().as_text()))

few, many = collectives(4), collectives(12)
print(few, many)
assert set(few) == {"all-reduce"}, few
assert few == many, (few, many)

params, grads = tree(4, 0), tree(4, 1)
sharded, whole = place(params), params
ours, alone = optimizer.init(sharded), optimizer.init(whole)
for _ in range(2):
    sharded, ours = step(sharded, ours, place(grads))
    whole, alone = step(whole, alone, grads)
for k in params:
    assert len(sharded[k].sharding.device_set) == 8
    # Sums in another order: the error of two float32 steps, see test_step.
    np.testing.assert_allclose(sharded[k], whole[k], rtol=2 * 2.0**-24, atol=240 * 2.0**-24 * 1e-2)
print("same")
"""

EXPLICIT = """
import itertools
import jax, jax.numpy as jnp, numpy as np, optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from setadam_jax import layer_statistics, load_neutral, set_adam, to_neutral

mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType.Explicit,) * 2)
jax.set_mesh(mesh)
SPECS = {"w": P("x"), "both": P("y", "x"), "half": P(None, "x"), "z": P("x"), "whole": P(),
         "stack": P("x"), "cut stack": P(None, "x"), "b": P(("x", "y"))}
SHAPES = {"stack": (4, 8, 3), "cut stack": (2, 8, 3), "b": (8,)}
DTYPES = {"half": jnp.bfloat16, "z": jnp.complex64}
rng = np.random.default_rng(0)
whole = {k: rng.uniform(0.25, 2, SHAPES.get(k, (8, 4))).astype(DTYPES.get(k, np.float32)) for k in SPECS}
place = lambda tree: {k: jax.device_put(x, NamedSharding(mesh, SPECS[k])) for k, x in tree.items()}
params = place(whole)
types = lambda tree: jax.tree.map(jax.typeof, tree)  # shape, dtype and sharding
stacks = lambda path, leaf: (1, 2) if leaf.ndim == 3 else None

adam = types(jax.jit(optax.scale_by_adam(mu_dtype=jnp.float32).init)(params))
OPTIMIZERS = {
    "plain": set_adam(1e-2, layer_axes=stacks),
    "decoupled": set_adam(1e-2, weight_decay=0.1, mu_dtype="bfloat16", layer_axes=stacks),
    "coupled": set_adam(1e-2, weight_decay=0.1, decoupled=False, update_dtype=None, layer_axes=stacks),
}
for name, optimizer in OPTIMIZERS.items():
    def step(params, state):
        updates, state = optimizer.update(params, state, params)
        return optax.apply_updates(params, updates), state

    structs = jax.tree.map(lambda p, spec: jax.ShapeDtypeStruct(p.shape, p.dtype, sharding=NamedSharding(mesh, spec)),
                           whole, SPECS)
    states = {"jitted": jax.jit(optimizer.init)(params)}
    if name != "coupled":  # whose moments are those of "plain"
        states |= {"eager": optimizer.init(params), "of structs": optimizer.init(structs)}
    for how, state in states.items():
        for field in ("mu", "nu"):
            for k, moment in optax.tree.get(state, field).items():
                spec = (*SPECS[k], *(None,) * (params[k].ndim - len(SPECS[k])), *(None,) * (k == "z"))
                assert tuple(jax.typeof(moment).sharding.spec) == spec, (name, how, k, jax.typeof(moment))
                if k != "z" and name == "plain":
                    assert jax.typeof(moment) == adam.mu[k]
        assert types(state) == types(states["jitted"])
    spec_of = lambda x: tuple(x.sharding.spec) if x.sharding else (None,) * len(x.shape)
    shaped = jax.tree.map(spec_of, jax.eval_shape(optimizer.init, structs))
    assert shaped == jax.tree.map(spec_of, types(state))

    with jax.set_mesh(jax.make_mesh((1,), ("one",), devices=jax.devices()[:1])):
        expected, after = jax.jit(step)(whole, optimizer.init(whole))
    few = {k: params[k] for k in ("w", "z", "cut stack")}  # outside jit each operation is compiled for itself
    runs = [(step, few, optimizer.init(few))] if name == "plain" else []
    for run, of, before in (*runs, (jax.jit(step), params, states["jitted"])):
        new, state = run(of, before)
        assert types(state) == types(before), name
        assert types(new) == types(of)
        for k, p in new.items():
            u = float(jnp.finfo(p.dtype).eps) / 2
            np.testing.assert_allclose(np.asarray(p, np.complex64), np.asarray(expected[k], np.complex64),
                                       rtol=2 * u, atol=240 * 2.0**-24 * 1e-2)
    if name == "decoupled":  # the types of a step are those that a scan asks for, as the runs above have shown
        (again, final), _ = jax.lax.scan(lambda c, _: (step(*c), None), (params, states["jitted"]), None, length=2)
        assert types((again, final)) == types((params, state))

    loaded = load_neutral(optimizer.init(params), to_neutral(state))
    assert types(loaded) == types(state)
    if name == "plain":  # second moments are the same kind in all three
        got = jax.jit(lambda s, p: layer_statistics(s, p, layer_axes=stacks))(state, params)
        assert jax.typeof(got["stack"].gamma).sharding.spec == P("x")
        assert got["w"].gamma.shape == ()
print("same")
"""


def test_sharded_as_on_one_device_with_few_collectives(compiled_programs):
    run(PROGRAM, compiled_programs)


def test_moments_on_an_explicit_mesh_have_the_types_of_their_parameters(compiled_programs):
    run(EXPLICIT, compiled_programs)


def run(program, compiled_programs):
    env = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(compiled_programs),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("same\n")
