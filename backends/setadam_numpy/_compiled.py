"""The loops of the CPU kernel, compiled by Numba. They restate `setadam_core.spec.trace`.

A step makes two passes over a layer. `_moments` reads g, m, v and writes m, v. It also sums v if v is float32;
otherwise `_sums` does that, chunk by chunk, while v is in the first-level cache. `_descend` reads m, v, θ and writes θ.
Everything is in one file because Numba's cache on disk only detects changes in the file of the cached function.

Threads share a step through `run`: they take its tasks in turn. Helper threads wait in `serve`, without the GIL, and
`run_together` hands them a step in about a microsecond, where waking a Python thread takes longer than a layer of a
million coordinates. `setadam_numpy._team` starts and ends them. `run_by_openmp` takes a framework's threads instead.

Arrays are passed as addresses, since a typed list of thousands of arrays costs more than their step. Minimum and
maximum are taken of the bits: for v ≥ 0, unsigned bits have the order of the numbers, with NaN above ∞, so both are
integer instructions and no NaN is lost. The compiler flags are `contract` (FMA) and, for the sums, `reassoc` (vector
lanes); never flags that assume that there is no NaN, no ∞ or no signed zero.
"""

import math
import platform
import sys
from typing import Any

import numpy as np
from llvmlite import ir
from llvmlite.binding import address_of_symbol, get_host_cpu_features
from numba import carray, cfunc, njit, types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from setadam_numpy._cache import alone, take_turns

CHUNK = 2048  # coordinates: float32 ones, which may be summed in one chain in double, or float64 ones in the cache
# The most float64 coordinates that are summed one after the other. With the leaves of a chunk this gives chains of 94
# additions, within the reduction class of the bound: 16 + 8 log2 CHUNK = 104.
LEAF = 64
BLOCK = 1 << 15  # coordinates of a block, the part of a large layer that one thread processes at a time

WHOLE, MOMENTS, DESCEND = 0, 1, 2  # kinds of task: some whole layers, or one pass over one block

# Indices in progress: counts of tasks taken and done, of threads that have begun and that may. Then come a count for
# each layer, and for each block the number of the thread whose cache has its moments, or one of these.
TAKEN, DONE, BEGUN, THREADS, OF_LAYERS = 0, 1, 2, 3, 4
WAITS, DESCENDED, ANYONES = 0, -1, -2

# Rows of the table of addresses.
THETA, GRAD, M, V = 0, 1, 2, 3

# Indices in the vector of coefficients in the compute dtype, each rounded once from double …
BETA1, ONE_MINUS_BETA1, BETA2, ONE_MINUS_BETA2, EPS, SIGN, COUPLED_DECAY, KEEP = range(8)
# … and in the vector of coefficients in double, from which those of each layer are computed.
LR, LOG_BETA1, LOG_BETA2, TAU, EPSILON, COS_POWER, INSIDE_ROOT = range(7)

# x86 processors from before 2013 lack float16 conversions, and the compiler would call a function that does not exist.
HAS_FLOAT16 = platform.machine().lower() not in ("x86_64", "amd64") or get_host_cpu_features().get("f16c", False)

_INNER = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}  # never called from Python
_elementwise = njit(fastmath={"contract"}, error_model="numpy", nogil=True, **_INNER)
_reduction = njit(fastmath={"contract", "reassoc"}, error_model="numpy", nogil=True, **_INNER)

_BITS = {types.float32: types.uint32, types.float64: types.uint64}
_FLOAT = {bits: real for real, bits in _BITS.items()}


@intrinsic
def pointer(typing: Any, address: Any, like: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(like)(types.int64, like), generate


@intrinsic
def _reinterpret(typing: Any, x: Any) -> Any:
    """The bits of a float, or the float with these bits."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], context.get_value_type(signature.return_type))

    return (_BITS.get(x) or _FLOAT[x])(x), generate


def _atomic(operation: str) -> Any:
    """counters[index] = operation(counters[index], value) as one instruction; returns the value before."""

    @intrinsic
    def apply(typing: Any, counters: Any, index: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            array = context.make_array(signature.args[0])(context, builder, args[0])
            place = cgutils.get_item_pointer(context, builder, signature.args[0], array, [args[1]])
            return builder.atomic_rmw(operation, place, args[2], "seq_cst")

        return types.int64(counters, types.int64, types.int64), generate

    return apply


_fetch_add, _exchange = _atomic("add"), _atomic("xchg")


@intrinsic
def _replace(typing: Any, numbers: Any, index: Any, old: Any, new: Any) -> Any:
    """Put a new number in the place of an old one, as one instruction; False if another one was there."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, args[0])
        place = cgutils.get_item_pointer(context, builder, signature.args[0], array, [args[1]])
        return builder.extract_value(builder.cmpxchg(place, args[2], args[3], "seq_cst", "seq_cst"), 1)

    return types.boolean(numbers, types.int64, types.int64, types.int64), generate


@intrinsic
def _pause(typing: Any) -> Any:
    """Tell the processor that this thread polls, so that it saves power and lets the core's other thread run."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        machine, hint = platform.machine().lower(), ir.IntType(32)
        if machine in ("x86_64", "amd64"):
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse2.pause"), [])
        elif machine in ("aarch64", "arm64"):
            kind = ir.FunctionType(ir.VoidType(), [hint])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.aarch64.hint"), [hint(1)])
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def _enter(typing: Any, function: Any, argument: Any) -> Any:
    """``function(argument)`` in C, given two addresses."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [args[1].type])
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), [args[1]])
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), generate


@intrinsic
def _call_parallel(typing: Any, parallel: Any, function: Any, argument: Any, threads: Any) -> Any:
    """``parallel(function, argument, threads, 0)`` in C: GCC's form of `#pragma omp parallel num_threads(threads)`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address, count = args[1].type, ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [address, address, count, count])
        start = builder.inttoptr(args[0], kind.as_pointer())
        builder.call(start, [args[1], args[2], builder.trunc(args[3], count), count(0)])
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp, types.intp), generate


@intrinsic
def _give_way(typing: Any) -> Any:
    """Let another thread run, if the system's library has a function for it."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if sys.platform != "win32":
            kind = ir.FunctionType(ir.IntType(32), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "sched_yield"), [])
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def _half_to_single(typing: Any, x: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fpext(builder.bitcast(args[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.int16), generate


@intrinsic
def _single_to_half(typing: Any, x: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(builder.fptrunc(args[0], ir.HalfType()), ir.IntType(16))

    return types.int16(types.float32), generate


def _widen(x: Any) -> Any:
    """A stored number in the compute dtype. The storage type is the dtype: uint16 means bfloat16, int16 float16."""


@overload(_widen, inline="always", strict=False)
def _widen_typed(x: Any) -> Any:
    if x == types.uint16:
        return lambda x: _reinterpret(np.uint32(np.uint32(x) << np.uint32(16)))
    if x == types.int16:
        return lambda x: _half_to_single(x)
    return lambda x: x


def _narrow(x: Any, like: Any) -> Any:
    """The number x, rounded to the storage type of like, ties to even."""


@overload(_narrow, inline="always", strict=False)
def _narrow_typed(x: Any, like: Any) -> Any:
    if like == types.uint16:
        return lambda x, like: _bfloat16(_reinterpret(x))
    if like == types.int16:
        return lambda x, like: _single_to_half(x)
    return lambda x, like: x


@_elementwise
def _bfloat16(bits: Any) -> Any:
    rounded = np.uint32(bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))
    if bits & np.uint32(0x7FFFFFFF) > np.uint32(0x7F800000):  # NaN, which rounding could turn into ∞
        rounded = bits | np.uint32(0x400000)
    return np.uint16(rounded >> np.uint32(16))


def _round(x: Any, like: Any) -> Any:
    """The double x in the compute dtype of like."""


@overload(_round, inline="always", strict=False)
def _round_typed(x: Any, like: Any) -> Any:
    return (lambda x, like: x) if like == types.float64 else (lambda x, like: np.float32(x))


@_elementwise
def _advance(m: Any, v: Any, i: Any, g: Any, beta1: Any, rest1: Any, beta2: Any, rest2: Any) -> Any:
    """The moments of one coordinate; returns the new v's bits."""
    m[i] = beta1 * m[i] + rest1 * g
    new = beta2 * v[i] + rest2 * (g * g)
    v[i] = new
    return _reinterpret(new)


@_reduction
def _moments(theta: Any, grad: Any, m: Any, v: Any, c: Any) -> Any:
    """Update the moments of a chunk; returns min v, max v, which is NaN where there is one, Σv and Σv²."""
    beta1, rest1, beta2, rest2 = c[BETA1], c[ONE_MINUS_BETA1], c[BETA2], c[ONE_MINUS_BETA2]
    sign, decay = c[SIGN], c[COUPLED_DECAY]
    low, high, s1, s2 = _reinterpret(_round(math.inf, c[0])), _reinterpret(_round(0.0, c[0])), 0.0, 0.0
    if decay == 0:  # a separate loop, which does not read θ
        for i in range(m.size):
            bits = _advance(m, v, i, sign * _widen(grad[i]), beta1, rest1, beta2, rest2)
            x = np.float64(_reinterpret(bits))
            low, high, s1, s2 = min(low, bits), max(high, bits), s1 + x, s2 + x * x
    else:
        for i in range(m.size):
            bits = _advance(m, v, i, sign * _widen(grad[i]) + decay * _widen(theta[i]), beta1, rest1, beta2, rest2)
            x = np.float64(_reinterpret(bits))
            low, high, s1, s2 = min(low, bits), max(high, bits), s1 + x, s2 + x * x
    return np.float64(_reinterpret(low)), np.float64(_reinterpret(high)), s1, s2


@_reduction
def _sums(v: Any, scale: Any) -> Any:
    """Σ r and Σ r² of r = scale·v, in double. The inner loop has a fixed length, so it becomes vector code."""
    s1, s2 = 0.0, 0.0
    whole = v.size // LEAF * LEAF
    for start in range(0, whole, LEAF):
        leaf1, leaf2 = 0.0, 0.0
        for i in range(LEAF):
            r = v[start + i] * scale
            leaf1 += r
            leaf2 += r * r
        s1 += leaf1
        s2 += leaf2
    leaf1, leaf2 = 0.0, 0.0
    for i in range(whole, v.size):
        r = v[i] * scale
        leaf1 += r
        leaf2 += r * r
    return s1 + leaf1, s2 + leaf2


@_elementwise
def _descend(theta: Any, m: Any, v: Any, scale: Any, shift: Any, rate: Any, c: Any, inside: Any) -> Any:
    """Update a chunk of θ. scale: γ/(1-β₂ᵗ); shift: τ min w; rate: η/(1-β₁ᵗ)."""
    eps, keep = c[EPS], c[KEEP]
    if inside:
        for i in range(m.size):
            w = math.sqrt(scale * v[i] + eps) - shift
            theta[i] = _narrow(keep * _widen(theta[i]) - rate * m[i] / w, theta[i])
    else:
        for i in range(m.size):
            w = math.sqrt(scale * v[i]) + eps - shift
            theta[i] = _narrow(keep * _widen(theta[i]) - rate * m[i] / w, theta[i])


# A part of a layer: its scale, Σ v/scale, Σ (v/scale)², min v, as in `setadam_core.parts.Parts`, all double.


def _part(theta: Any, grad: Any, m: Any, v: Any, c: Any) -> Any:
    """Update the moments of a chunk, and return its part."""


@overload(_part, inline="always", strict=False)
def _part_typed(theta: Any, grad: Any, m: Any, v: Any, c: Any) -> Any:
    if c.dtype == types.float32:
        return lambda theta, grad, m, v, c: _part_of_singles(theta, grad, m, v, c)
    return lambda theta, grad, m, v, c: _part_of_doubles(theta, grad, m, v, c)


@_elementwise
def _part_of_singles(theta: Any, grad: Any, m: Any, v: Any, c: Any) -> Any:
    """No square of a float32 under- or overflows in double, so the scale is 1, or 0 for a chunk of zeros."""
    low, high, s1, s2 = _moments(theta, grad, m, v, c)
    if not (0 <= high < math.inf):  # v is negative only if the state is corrupt
        return math.nan, math.nan, math.nan, low if high == math.inf else math.nan
    return (0.0 if high == 0 else 1.0), s1, s2, low


@_elementwise
def _part_of_doubles(theta: Any, grad: Any, m: Any, v: Any, c: Any) -> Any:
    """The scale is a power of two near max v, so scaling is exact, and no square that matters under- or overflows."""
    low, high, _, _ = _moments(theta, grad, m, v, c)
    if not (0 <= high < math.inf):
        return math.nan, math.nan, math.nan, low if high == math.inf else math.nan
    if high == 0:
        return 0.0, 0.0, 0.0, low
    exponent = min(max(_reinterpret(high) >> np.uint64(52), np.uint64(1)), np.uint64(2045))
    s1, s2 = _sums(v, _reinterpret((np.uint64(2046) - exponent) << np.uint64(52)))
    return _reinterpret(exponent << np.uint64(52)), s1, s2, low


@_elementwise
def _merged(a: Any, b: Any) -> Any:
    """Two parts merged. Their scales are powers of two, so rescaling is exact."""
    high = a[0] if a[0] >= b[0] or a[0] != a[0] else b[0]
    low = a[3] if a[3] <= b[3] or a[3] != a[3] else b[3]
    if high == 0:
        return high, 0.0, 0.0, low
    x, y = a[0] / high, b[0] / high
    return high, a[1] * x + b[1] * y, a[2] * (x * x) + b[2] * (y * y), low


@_elementwise
def _gamma(part: Any, size: Any, power: Any) -> Any:
    """γ of a layer, given the part of the whole layer; see `setadam_core.parts.combine`."""
    if power == 0 or part[0] == 0:
        return 1.0
    cos2 = (part[1] / size) * (part[1] / part[2])
    cos2 = 1.0 if cos2 > 1 else cos2  # min would lose NaN
    return cos2 if power == 2 else cos2 ** (power / 2)


@_elementwise
def _bias_correction(log_beta: Any, t: Any) -> Any:
    return -math.expm1(t * log_beta)


# Blocks, layers, tasks.


@_elementwise
def _array(like: Any, table: Any, sizes: Any, row: Any, layer: Any) -> Any:
    return carray(pointer(table[row, layer], like), sizes[layer])


@_elementwise
def _block_moments(stored: Any, table: Any, sizes: Any, layer: Any, block: Any, c: Any) -> Any:
    theta, grad = _array(stored, table, sizes, THETA, layer), _array(stored, table, sizes, GRAD, layer)
    m, v = _array(c[0], table, sizes, M, layer), _array(c[0], table, sizes, V, layer)
    part = 0.0, 0.0, 0.0, math.inf
    end = min(sizes[layer], (block + 1) * BLOCK)
    for start in range(block * BLOCK, end, CHUNK):
        stop = min(start + CHUNK, end)
        chunk = _part(theta[start:stop], grad[start:stop], m[start:stop], v[start:stop], c)
        part = _merged(part, chunk)
    return part


@_elementwise
def _block_descend(
    stored: Any, table: Any, sizes: Any, layer: Any, block: Any, t: Any, gamma: Any, low: Any, c: Any, d: Any
) -> None:
    theta = _array(stored, table, sizes, THETA, layer)
    m, v = _array(c[0], table, sizes, M, layer), _array(c[0], table, sizes, V, layer)
    start, stop = block * BLOCK, min(sizes[layer], (block + 1) * BLOCK)
    scale, inside = gamma / _bias_correction(d[LOG_BETA2], t), d[INSIDE_ROOT] != 0
    least = math.sqrt(scale * low + d[EPSILON]) if inside else math.sqrt(scale * low) + d[EPSILON]
    shift, rate = d[TAU] * least, d[LR] / _bias_correction(d[LOG_BETA1], t)
    numbers = _round(scale, c[0]), _round(shift, c[0]), _round(rate, c[0])
    _descend(theta[start:stop], m[start:stop], v[start:stop], *numbers, c, inside)


@_elementwise
def _finish(layer: Any, sizes: Any, first: Any, parts: Any, gammas: Any, lows: Any, power: Any) -> None:
    """Merge the parts of a layer's blocks, as a tree, into the first block's row; store γ and min v."""
    begin, end = first[layer], first[layer + 1]
    stride = 1
    while stride < end - begin:
        for i in range(begin, end - stride, 2 * stride):
            a, b = parts[i], parts[i + stride]
            parts[i] = _merged((a[0], a[1], a[2], a[3]), (b[0], b[1], b[2], b[3]))
        stride *= 2
    part = parts[begin]
    gammas[layer] = _gamma((part[0], part[1], part[2], part[3]), sizes[layer], power)
    lows[layer] = part[3]


def cached(nogil: bool) -> Any:
    """A decorator that compiles a function, and stores it on disk if there is a writable directory."""

    def compiled(function: Any) -> Any:
        try:
            return take_turns(njit(cache=True, error_model="numpy", nogil=nogil)(function))
        except RuntimeError:  # Numba found no directory that can be written
            return njit(error_model="numpy", nogil=nogil)(function)

    return compiled


@_elementwise
def _claim(blocks: Any, owner: Any, new: Any, start: Any, looked: Any) -> Any:
    """Give the next block of an owner to another one. Returns how many blocks have been looked at, with this one.

    blocks: the owners of a layer's blocks. start: where to begin; looked: how many were looked at before. If the owner
    has none left, the result is one more than all.
    """
    while looked < blocks.size:
        i = (start + looked) % blocks.size
        looked += 1
        now = blocks[i]
        if (now == owner or (owner == ANYONES and now > WAITS)) and _replace(blocks, i, now, new):
            return looked
    return blocks.size + 1


@cached(nogil=True)
def run(
    stored: Any,
    tasks: Any,
    progress: Any,
    table: Any,
    sizes: Any,
    first: Any,
    parts: Any,
    ts: Any,
    gammas: Any,
    lows: Any,
    c: Any,
    d: Any,
) -> None:
    """Process tasks until all are done. Any number of threads may call this together.

    Tasks are taken in order, so whatever a task waits for has been taken before it, by a thread that is working on it.
    A task says which layer, not which block: threads begin at different blocks, and each descends, before others, those
    whose moments it has computed, since they are in its cache.
    The result does not depend on which thread runs a task: the blocks, and the order in which their parts are merged,
    are always the same.

    stored: a number of the type of θ and g, float64, float32, uint16 (bfloat16) or int16 (float16).
    tasks, int64 (n, 3): rows of kind, layer, and the layer after the last.
    progress, int64 (OF_LAYERS + layers + blocks,): see there; of a layer, it counts the blocks whose moments are done,
    and one more when γ is known. table, int64 (4, layers): addresses of θ, g, m, v. sizes, int64 (layers,):
    coordinates. first, int64 (layers + 1,): the row in parts of each layer's first block. parts, float64
    (blocks, 4). ts, gammas, lows, float64 (layers,): step count, γ, min v. c and d: the coefficients, in the
    compute dtype and in double.
    """
    me = _fetch_add(progress, BEGUN, 1) + 1
    threads = max(me, progress[THREADS])
    doing, at, own, others = WHOLE, 0, 0, 0
    while True:
        i = _fetch_add(progress, TAKEN, 1)
        if i >= tasks.shape[0]:
            break
        kind, layer = tasks[i, 0], tasks[i, 1]
        if kind == WHOLE:
            for one in range(layer, tasks[i, 2]):
                for part in range(first[one + 1] - first[one]):
                    parts[first[one] + part] = _block_moments(stored, table, sizes, one, part, c)
                _finish(one, sizes, first, parts, gammas, lows, d[COS_POWER])
                for part in range(first[one + 1] - first[one]):
                    _block_descend(stored, table, sizes, one, part, ts[one], gammas[one], lows[one], c, d)
            _fetch_add(progress, DONE, 1)
            continue
        if kind != doing or layer != at:
            doing, at, own, others = kind, layer, 0, 0
        count = first[layer + 1] - first[layer]
        rows = OF_LAYERS + sizes.size + first[layer]
        blocks, start = progress[rows : rows + count], (me - 1) * count // threads
        if kind == MOMENTS:
            own = _claim(blocks, WAITS, me, start, own)
            block = (start + own - 1) % count
            parts[first[layer] + block] = _block_moments(stored, table, sizes, layer, block, c)
            if _fetch_add(progress, OF_LAYERS + layer, 1) == count - 1:
                _finish(layer, sizes, first, parts, gammas, lows, d[COS_POWER])
                _fetch_add(progress, OF_LAYERS + layer, 1)
        else:
            while _fetch_add(progress, OF_LAYERS + layer, 0) <= count:
                _give_way()
            own = _claim(blocks, me, DESCENDED, start, own)
            block = (start + own - 1) % count
            if own > count:
                others = _claim(blocks, ANYONES, DESCENDED, start, others)
                block = (start + others - 1) % count
            _block_descend(stored, table, sizes, layer, block, ts[layer], gammas[layer], lows[layer], c, d)
        _fetch_add(progress, DONE, 1)
    while _fetch_add(progress, DONE, 0) < tasks.shape[0]:  # other threads are still working
        _give_way()


@cached(nogil=True)
def count_up(addresses: Any, counts: Any) -> None:
    """Add 1 to the float64 at each address, and write the results to counts."""
    for i in range(addresses.size):
        count = carray(pointer(addresses[i], counts[0]), 1)
        count[0] += 1.0
        counts[i] = count[0]


# Helper threads. All that they share is a board of 64-bit integers; its indices:
EPOCH = 0  # counts steps that were handed out
OPEN = 8  # the epoch of the step that helpers may enter, or 0
INSIDE = 16  # helpers that are in it, or about to find it closed
SLEEPING = 24  # helpers that must be woken
BUSY = 32  # 1 while a thread hands out a step: another thread that steps at the same time does so alone
WANTED, ENTRY, DISMISSED = 40, 41, 42  # how many helpers may enter; the address of `entry`; 1 at the end
JOB = 48  # the addresses and sizes of the step's arrays
JOB_WORDS = 14
MUTEX, CONDITION = 64, 80  # of the C library, with room for those of all platforms
BOARD = 96  # words; what threads write is in cache lines of its own
SPINS = 1000  # polls, some tens of microseconds, before a helper goes to sleep

_init_mutex = types.ExternalFunction("pthread_mutex_init", types.int32(types.intp, types.intp))
_init_condition = types.ExternalFunction("pthread_cond_init", types.int32(types.intp, types.intp))
_lock = types.ExternalFunction("pthread_mutex_lock", types.int32(types.intp))
_unlock = types.ExternalFunction("pthread_mutex_unlock", types.int32(types.intp))
_wait = types.ExternalFunction("pthread_cond_wait", types.int32(types.intp, types.intp))
_wake_all = types.ExternalFunction("pthread_cond_broadcast", types.int32(types.intp))


def has_helpers() -> bool:
    """Whether the C library of this process has what helpers wait with."""
    names = ("mutex_init", "cond_init", "mutex_lock", "mutex_unlock", "cond_wait", "cond_broadcast")
    return sys.platform != "win32" and all(address_of_symbol(f"pthread_{name}") for name in names)


@njit(**_INNER)
def _read(board: Any, index: Any) -> Any:
    return _fetch_add(board, index, 0)


@njit(**_INNER)
def _wake(board: Any) -> None:
    """Under the mutex: a helper either sees the new epoch before it sleeps, or is woken."""
    mutex, condition = board.ctypes.data + 8 * MUTEX, board.ctypes.data + 8 * CONDITION
    _lock(mutex)
    _wake_all(condition)
    _unlock(mutex)


@cached(nogil=True)
def prepare(board: Any) -> None:
    """Make a board of zeros ready for helpers."""
    _init_mutex(board.ctypes.data + 8 * MUTEX, 0)
    _init_condition(board.ctypes.data + 8 * CONDITION, 0)


@cached(nogil=True)
def dismiss(board: Any) -> None:
    """Make all helpers return from `serve`."""
    _exchange(board, DISMISSED, 1)
    _fetch_add(board, EPOCH, 1)
    _wake(board)


@cached(nogil=True)
def serve(board: Any, index: Any) -> None:
    """What a helper does: it enters the steps that are handed out, polls for the next one for a while, then sleeps."""
    mutex, condition = board.ctypes.data + 8 * MUTEX, board.ctypes.data + 8 * CONDITION
    seen, spins = 0, 0
    while _read(board, DISMISSED) == 0:
        epoch = _read(board, EPOCH)
        if epoch != seen:
            seen, spins = epoch, 0
            if index < _read(board, WANTED):
                _fetch_add(board, INSIDE, 1)
                if _read(board, OPEN) == epoch:  # from now on the step waits for this helper, so its arrays stay
                    _enter(board[ENTRY], board.ctypes.data + 8 * JOB)
                _fetch_add(board, INSIDE, -1)
        elif spins < SPINS:
            spins += 1
            _pause()
        else:
            _lock(mutex)
            _fetch_add(board, SLEEPING, 1)
            while _read(board, EPOCH) == seen:
                _wait(condition, mutex)
            _fetch_add(board, SLEEPING, -1)
            _unlock(mutex)
            spins = 0


@njit(**_INNER)
def _describe(job: Any, arrays: Any) -> None:
    """Write the sizes and addresses of a step's arrays, those of `run` after stored, as `entry` reads them."""
    tasks, progress, table, sizes, first, parts, ts, gammas, lows, c, d = arrays
    job[0], job[1], job[2] = tasks.shape[0], sizes.size, parts.shape[0]
    job[3], job[4], job[5], job[6] = tasks.ctypes.data, progress.ctypes.data, table.ctypes.data, sizes.ctypes.data
    job[7], job[8], job[9] = first.ctypes.data, parts.ctypes.data, ts.ctypes.data
    job[10], job[11], job[12], job[13] = gammas.ctypes.data, lows.ctypes.data, c.ctypes.data, d.ctypes.data


@cached(nogil=True)
def run_together(board: Any, entered: Any, helpers: Any, wakes: Any, stored: Any, *arrays: Any) -> None:
    """`run` by this thread and the first helpers that serve the board; wakes those that sleep only if ``wakes``.

    entered: the address of the `entry` of stored's dtype. When this returns, no helper is in the step any more.
    """
    if _exchange(board, BUSY, 1) != 0:
        run(stored, *arrays)
        return
    _describe(board[JOB:], arrays)
    board[ENTRY] = entered
    _exchange(board, WANTED, helpers)
    epoch = _read(board, EPOCH) + 1
    _exchange(board, OPEN, epoch)
    _exchange(board, EPOCH, epoch)
    if wakes and _read(board, SLEEPING) > 0:
        _wake(board)
    run(stored, *arrays)
    _exchange(board, OPEN, 0)
    while _read(board, INSIDE) > 0:
        _give_way()
    _exchange(board, BUSY, 0)


@cached(nogil=True)
def run_by_openmp(parallel: Any, entered: Any, threads: Any, *arrays: Any) -> None:
    """`run` by this thread and OpenMP's others, so many in all. parallel: the address of its function GOMP_parallel."""
    job = np.empty(JOB_WORDS, np.int64)
    _describe(job, arrays)
    _call_parallel(parallel, entered, job.ctypes.data, threads)


def entry(stored: Any) -> Any:
    """A C function that runs the step at an address, as `_describe` writes it, for θ and g of stored's dtype."""
    computed = stored if stored.dtype == np.float64 else np.float32(0)

    def enter(address: Any) -> None:
        job, i, f = carray(pointer(address, np.int64(0)), JOB_WORDS), np.int64(0), np.float64(0)
        layers = job[1]
        first = carray(pointer(job[7], i), layers + 1)
        blocks = first[layers]
        run(
            stored,
            carray(pointer(job[3], i), (job[0], 3)),
            carray(pointer(job[4], i), OF_LAYERS + layers + blocks),
            carray(pointer(job[5], i), (4, layers)),
            carray(pointer(job[6], i), layers),
            first,
            carray(pointer(job[8], f), (job[2], 4)),
            carray(pointer(job[9], f), layers),
            carray(pointer(job[10], f), layers),
            carray(pointer(job[11], f), layers),
            carray(pointer(job[12], computed), KEEP + 1),
            carray(pointer(job[13], f), INSIDE_ROOT + 1),
        )

    signature = types.void(types.intp)
    try:
        with alone(run.stats.cache_path):
            return cfunc(signature, cache=True, error_model="numpy")(enter)
    except RuntimeError:  # as in `cached`
        return cfunc(signature, error_model="numpy")(enter)
