"""Programs of the JAX tests, each in processes of its own, since JAX fixes its devices once:
`python jax_programs.py NAME [PROCESS FOLDER]`. Every step is judged by the conformance kit.
"""

import functools
import math
import re
import sys
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from setadam_conformance.cases.case import Case, LayerCase
from setadam_conformance.judging.judge import judge
from setadam_conformance.protocol import LayerState
from setadam_jax import layer_statistics, set_adam
from setadam_jax.conformance import JittedJAX

LR = 0.01


def tree(shapes, seed):
    """One leaf a shape: many magnitudes, a third of them zero."""
    rng = np.random.default_rng(seed)
    sizes = [rng.normal(size=shape) for shape in shapes]
    return {
        f"leaf{i}": np.asarray(rng.normal(size=x.shape) * 10**x * (x > -0.4), np.float32) for i, x in enumerate(sizes)
    }


def whole(x):
    """All of an array that may be spread over processes."""
    return np.asarray(multihost_utils.process_allgather(x, tiled=True) if not x.is_fully_addressable else x)


def judged(before, after, grads, axes=None):
    """Hold one step, of (params, state) to (params, state), against the oracle."""
    (params, state), (new, news) = before, after
    layers, answers, states = [], [], []
    for key, p in params.items():
        m, v = whole(state[0].mu[key]), whole(state[0].nu[key])
        layers.append(LayerCase(whole(p), whole(grads[key]), m, v, axes))
        answers.append(whole(new[key]))
        states.append(LayerState(whole(news[0].mu[key]), whole(news[0].nu[key]), int(news[0].count)))
    case = Case("float32", tuple(layers), int(state[0].count))
    case = case.with_hp(lr=LR)
    verdict = judge(case, answers, states, JittedJAX.capabilities)
    assert verdict.conforms, (verdict.parted_at, verdict.parted_layer, verdict.scores)
    assert verdict.scores["param"].judged > 0


def follow(update, params, state, gradients, axes=None):
    """Some steps, each judged."""
    for grads in gradients:
        new, news = update(params, state, grads)
        judged((params, state), (new, news), grads, axes)
        params, state = new, news
    return params, state


def stepper(optimizer):
    def update(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return update


def collectives(compiled):
    """How many of each kind there are in a compiled program, and the number of words of the largest."""
    found = re.findall(r"= (.*?) (all-[a-z]+|reduce-scatter|collective-[a-z]+)(?:-start)?[(]", compiled.as_text())
    words = [
        sum(math.prod(int(n) for n in dims.split(",") if n) for dims in re.findall(r"\[([\d,]*)\]", shapes))
        for shapes, _ in found
    ]
    return Counter(kind for _, kind in found), max(words, default=0)


def jit_over_meshes():
    """GSPMD: one and two dimensions of a mesh, both on one axis, replicas; the sharding is kept."""
    mesh = jax.make_mesh((4, 2), ("data", "model"))
    specs = [P("data"), P("data", "model"), P("model", "data"), P(("data", "model")), P(None, "model"), P()]

    def place(leaves):
        return {k: jax.device_put(x, NamedSharding(mesh, specs[int(k[4:]) % 6])) for k, x in leaves.items()}

    shapes = [(8, 4)] * 6
    optimizer = set_adam(LR)
    params = place(tree(shapes, 0))
    update = jax.jit(stepper(optimizer))
    new, state = follow(update, params, optimizer.init(params), [place(tree(shapes, t)) for t in range(1, 6)])
    for key, p in params.items():
        for x in (new[key], state[0].mu[key], state[0].nu[key]):
            assert x.sharding.is_equivalent_to(p.sharding, 2)


def uneven_shapes_under_jit():
    """Rows that do not divide: GSPMD pads them, and the padding is no coordinate. One row on eight devices."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    shapes = [(5, 3), (1, 7), (9,), (130, 3)]
    spread = functools.partial(jax.lax.with_sharding_constraint, shardings=NamedSharding(mesh, P("data")))
    optimizer = set_adam(LR)

    whole = NamedSharding(mesh, P())  # what enters or leaves must divide, or be whole

    @functools.partial(jax.jit, in_shardings=whole, out_shardings=whole)
    def update(params, state, grads):
        params, grads = jax.tree.map(spread, params), jax.tree.map(spread, grads)
        state = jax.tree.map(lambda x: spread(x) if x.ndim else x, state)
        return stepper(optimizer)(params, state, grads)

    params = jax.tree.map(jnp.asarray, tree(shapes, 0))
    follow(update, params, optimizer.init(params), [jax.tree.map(jnp.asarray, tree(shapes, t)) for t in range(1, 6)])


def _spread(key):
    return {"0": ("data",), "1": ("data", "model"), "2": ("model",), "3": None}[str(int(key[4:]) % 4)]


def _shard_mapped(mesh, shapes, **options):
    """The step inside shard_map: leaves cut over one axis, over two, over the other, and replicated."""
    specs = {f"leaf{i}": P(_spread(f"leaf{i}")) if _spread(f"leaf{i}") else P() for i in range(len(shapes))}
    optimizer = set_adam(LR, axis_name=lambda path, leaf: _spread(path[0].key), **options)
    params = {k: jax.device_put(x, NamedSharding(mesh, specs[k])) for k, x in tree(shapes, 0).items()}
    state = optimizer.init(params)
    of_state = jax.tree.map(lambda x: x.sharding.spec if x.ndim else P(), state)
    update = jax.jit(
        jax.shard_map(stepper(optimizer), mesh=mesh, in_specs=(specs, of_state, specs), out_specs=(specs, of_state))
    )
    return update, params, state, specs


def shard_map_with_names():
    """Inside shard_map the layers are those that axis_name puts together; as many collectives as there are
    kinds and sets of axes, of a few words a layer, whatever the sizes.
    """
    mesh = jax.make_mesh((4, 2), ("data", "model"))
    shapes = [(8, 3), (16, 2), (2, 5), (3, 3)]
    update, params, state, specs = _shard_mapped(mesh, shapes)
    gradients = [
        {k: jax.device_put(x, NamedSharding(mesh, specs[k])) for k, x in tree(shapes, t).items()} for t in range(1, 6)
    ]
    follow(update, params, state, gradients)

    few, _ = collectives(update.lower(params, state, gradients[0]).compile())
    for shape, times in (((8, 3), 3), ((512, 100), 1)):
        update, params, state, specs = _shard_mapped(mesh, [shape] * 4 * times)
        many, words = collectives(update.lower(params, state, params).compile())
        assert set(many) == {"all-reduce"}, many
        print(few, many, words)
        assert many["all-reduce"] <= few["all-reduce"], (few, many)
        assert words <= 2 * 4 * times  # of two sums a layer

    def statistics(params, state):
        return layer_statistics(state, params, axis_name=lambda path, leaf: _spread(path[0].key))

    of_state = jax.tree.map(lambda x: x.sharding.spec if x.ndim else P(), state)
    spread = jax.jit(jax.shard_map(statistics, mesh=mesh, in_specs=(specs, of_state), out_specs=P()))
    for a, b in zip(
        jax.tree.leaves(spread(params, state)), jax.tree.leaves(layer_statistics(state, params)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def shard_map_between_layers():
    """A stack that is cut between its layers has whole layers, and no name; one cut through them has one."""
    mesh = jax.make_mesh((8,), ("data",))
    for spec, name, due in ((P("data"), None, 0), (P(None, "data"), "data", 4)):
        optimizer = set_adam(LR, layer_axes=(1, 2), axis_name=name)
        params = {k: jax.device_put(x, NamedSharding(mesh, spec)) for k, x in tree([(8, 16, 3)], 0).items()}
        specs, state = {"leaf0": spec}, optimizer.init(params)
        of_state = jax.tree.map(lambda x: x.sharding.spec if x.ndim else P(), state)
        update = jax.jit(
            jax.shard_map(stepper(optimizer), mesh=mesh, in_specs=(specs, of_state, specs), out_specs=(specs, of_state))
        )
        grads = [{"leaf0": jax.device_put(x["leaf0"], NamedSharding(mesh, spec))} for x in (tree([(8, 16, 3)], 1),)]
        follow(update, params, state, grads, axes=(1, 2))
        found, _ = collectives(update.lower(params, state, grads[0]).compile())
        assert found["all-reduce"] <= due, found


def restored_into_another_sharding():
    """Orbax: a checkpoint of eight rows of devices restores on two columns, and the run goes on."""
    import tempfile

    import orbax.checkpoint as ocp

    rows = NamedSharding(jax.make_mesh((8,), ("data",)), P("data"))
    columns = NamedSharding(jax.make_mesh((4, 2), ("data", "model")), P(None, "model"))
    shapes = [(8, 4), (16, 2)]
    optimizer = set_adam(LR)
    update = jax.jit(stepper(optimizer))
    params = jax.device_put(tree(shapes, 0), rows)
    params, state = follow(update, params, optimizer.init(params), [jax.device_put(tree(shapes, 1), rows)])

    def target(x):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=columns if x.ndim else NamedSharding(columns.mesh, P()))

    with tempfile.TemporaryDirectory() as folder, ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(Path(folder) / "saved", (params, state))
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(Path(folder) / "saved", jax.tree.map(target, (params, state)))
    for a, b in zip(jax.tree.leaves((params, state)), jax.tree.leaves(restored), strict=True):
        np.testing.assert_array_equal(a, b)
        assert b.ndim == 0 or b.sharding.is_equivalent_to(columns, b.ndim)
    follow(update, *restored, [jax.device_put(tree(shapes, t), columns) for t in range(2, 4)])


def two_processes(process, folder):
    """`jax.distributed`: two processes of two devices, each with half of every array."""
    port = (Path(folder) / "port").read_text()
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=int(process), initialization_timeout=60)
    assert (jax.process_count(), len(jax.local_devices()), len(jax.devices())) == (2, 2, 4)
    mesh = jax.make_mesh((2, 2), ("data", "model"))
    specs = [P("data"), P(("data", "model")), P("model"), P()]
    shapes = [(8, 3), (16, 2), (2, 5), (3, 3)]

    def place(leaves):
        def put(i, x):
            sharding = NamedSharding(mesh, specs[i])
            return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

        return {k: put(i, x) for i, (k, x) in enumerate(leaves.items())}

    optimizer = set_adam(LR)
    params = place(tree(shapes, 0))
    of_params = {f"leaf{i}": spec for i, spec in enumerate(specs)}
    adam, *others = jax.eval_shape(optimizer.init, params)
    of_state = (adam._replace(count=P(), mu=of_params, nu=of_params), *others)
    shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), of_state, is_leaf=lambda x: isinstance(x, P))
    state = jax.jit(optimizer.init, out_shardings=shardings)(params)
    gradients = [place(tree(shapes, t)) for t in range(1, 4)]
    follow(jax.jit(stepper(optimizer)), params, state, gradients)

    named = stepper(set_adam(LR, axis_name=lambda path, leaf: _spread(path[0].key)))
    specs_in = (of_params, of_state, of_params)
    update = jax.shard_map(named, mesh=mesh, in_specs=specs_in, out_specs=(of_params, of_state))
    follow(jax.jit(update), params, state, gradients)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
    print("passed")
