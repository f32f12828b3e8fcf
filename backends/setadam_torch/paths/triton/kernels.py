"""The kernels: one step of many layers of one dtype, in three launches.

    moments_kernel       new m and v of each chunk of coordinates, and Σv, Σv², max v, min v of the chunk
    coefficients_kernel  γ of each layer from its chunks, in a fixed order, and what each layer's update needs
    descend_kernel       new θ of each chunk

They restate `setadam_core.spec.trace` and `setadam_core.parts.combine`. Products and sums may be
contracted; roots and divisions are correctly rounded, as the conformance kit's bound asks.

A table of 64-bit integers says where everything lies. It has a column for each of the names below, with an entry
for each layer; the columns follow one another, as `tables` makes them. Addresses are those of contiguous memory.
"""

# `and` evaluates both sides of a value on the device, and what follows an `if` is compiled even if that returns.
# ruff: noqa: RET505, SIM102, SIM108
import triton
import triton.language as tl

DTYPES = {"float16": tl.float16, "bfloat16": tl.bfloat16, "float32": tl.float32, "float64": tl.float64}

# Columns of the table.
THETA = tl.constexpr(0)  # address of the layer's parameter
GRAD = tl.constexpr(1)
M = tl.constexpr(2)
V = tl.constexpr(3)
STEP = tl.constexpr(4)  # address of the layer's step count, a float64
COUNTS = tl.constexpr(5)  # 1 for the one layer of each parameter that counts the step, else 0
SIZE = tl.constexpr(6)  # coordinates
FIRST = tl.constexpr(7)  # index of its first chunk among those of all layers

# Rows of what is known of a chunk, and of a layer: `setadam_core.parts.Parts`.
HIGH = tl.constexpr(0)
S1 = tl.constexpr(1)
S2 = tl.constexpr(2)
LOW = tl.constexpr(3)

# Rows of what the update of a layer needs.
SCALE = tl.constexpr(0)  # γ / (1 - β₂ᵗ)
SHIFT = tl.constexpr(1)  # τ min w
RATE = tl.constexpr(2)  # η / (1 - β₁ᵗ)
SHRINK = tl.constexpr(3)  # 1 - ηλ, decoupled weight decay

INFINITY = tl.constexpr(float("inf"))


@triton.jit
def _entry(table, layers, column: tl.constexpr, layer):
    return tl.load(table + column * layers + layer)


@triton.jit
def _divide(x, y):
    """X / y, correctly rounded: Triton's own / is so in double alone."""
    if x.dtype == tl.float64:
        return x / y
    else:
        return tl.div_rn(x, y)


@triton.jit
def _root(v, scale, eps, INSIDE: tl.constexpr):
    """E: √(cv + ε), or √(cv) + ε, the root correctly rounded."""
    x = v * scale
    if INSIDE:
        x = x + eps
    if x.dtype == tl.float64:
        x = tl.sqrt(x)
    else:
        x = tl.sqrt_rn(x)
    if not INSIDE:
        x = x + eps
    return x


@triton.jit
def _bias_correction(log_beta, t):
    """1 - βᵗ in double, as -expm1(x) with x = t log β. Kahan: (y - 1) x / log y, y = eˣ, has expm1's
    accuracy, as the error of y cancels.
    """
    x = t * log_beta
    y = tl.exp(x)
    inner = (y != 1.0) & (y != 0.0)
    z = tl.where(inner, y, 0.5)
    expm1 = (z - 1.0) * (x / tl.log(z))
    return -tl.where(inner, expm1, tl.where(y == 1.0, x, -1.0))


@triton.jit
def _load(address, at, end, DTYPE: tl.constexpr, WHOLE: tl.constexpr):
    """Coordinates from memory: without a mask and in 16-byte words, if they are WHOLE; else 0 from end on."""
    pointer = address.to(tl.pointer_type(DTYPE))
    if WHOLE:
        return tl.load(tl.multiple_of(pointer, 16) + at)
    else:
        return tl.load(pointer + at, mask=at < end, other=0.0)


@triton.jit
def _store(address, at, end, x, DTYPE: tl.constexpr, WHOLE: tl.constexpr):
    pointer = address.to(tl.pointer_type(DTYPE))
    if WHOLE:
        tl.store(tl.multiple_of(pointer, 16) + at, x.to(DTYPE))
    else:
        tl.store(pointer + at, x.to(DTYPE), mask=at < end)


@triton.jit
def _chunk_moments(
    theta_at, grad_at, m_at, v_at, begin, end, grad_scale, beta1, one_less_beta1, beta2, one_less_beta2, decay,
    PARAM: tl.constexpr, COMPUTE: tl.constexpr, LANES: tl.constexpr, MAXIMIZE: tl.constexpr,
    COUPLED: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """Update m and v of coordinates begin … end - 1; their Parts."""
    high = tl.zeros([LANES], COMPUTE)
    low = tl.full([LANES], INFINITY, COMPUTE)
    s1 = tl.zeros([LANES], tl.float64)
    s2 = tl.zeros([LANES], tl.float64)
    for start in range(begin, end, LANES):
        at = start + tl.arange(0, LANES)
        g = _load(grad_at, at, end, PARAM, WHOLE).to(COMPUTE)
        if grad_scale is not None:
            g = _divide(g, grad_scale)
            _store(grad_at, at, end, g, PARAM, WHOLE)
        if MAXIMIZE:
            g = -g
        if COUPLED:
            g = g + decay * _load(theta_at, at, end, PARAM, WHOLE).to(COMPUTE)
        m = beta1 * _load(m_at, at, end, COMPUTE, WHOLE) + one_less_beta1 * g
        v = beta2 * _load(v_at, at, end, COMPUTE, WHOLE) + one_less_beta2 * (g * g)
        _store(m_at, at, end, m, COMPUTE, WHOLE)
        _store(v_at, at, end, v, COMPUTE, WHOLE)
        high = tl.maximum(high, v)
        if WHOLE:
            low = tl.minimum(low, v)
        else:
            low = tl.minimum(low, tl.where(at < end, v, INFINITY))
        if tl.float32 == COMPUTE:  # in double its squares neither under- nor overflow
            x = v.to(tl.float64)
            s1 += x
            s2 += x * x
    highest = tl.max(high, axis=0).to(tl.float64)
    scale = tl.where(highest == 0.0, 1.0, highest)
    if tl.float64 == COMPUTE:  # its squares do: scaled, from the cache, now that the largest is known
        tl.debug_barrier()
        for start in range(begin, end, LANES):
            r = _load(v_at, start + tl.arange(0, LANES), end, COMPUTE, WHOLE) / scale
            s1 += r
            s2 += r * r
        scale = tl.where(scale != scale, scale, 1.0)
    total1 = tl.sum(s1, axis=0) / scale
    total2 = tl.sum(s2, axis=0) / scale / scale
    return highest, total1, total2, tl.min(low, axis=0).to(tl.float64)


@triton.jit
def _store_parts(rows, stride, at, high, s1, s2, low):
    """Maxima and minima drop NaN; a sum does not, and here it speaks for them."""
    lost = s1 != s1
    tl.store(rows + HIGH * stride + at, tl.where(lost, s1, high))
    tl.store(rows + S1 * stride + at, s1)
    tl.store(rows + S2 * stride + at, s2)
    tl.store(rows + LOW * stride + at, tl.where(lost, s1, low))


@triton.jit(do_not_specialize=["layers", "chunks"])
def moments_kernel(
    table, owner, partials, layers, chunks, found_inf, grad_scale,
    beta1: tl.float64, beta2: tl.float64, decay: tl.float64,
    PARAM: tl.constexpr, COMPUTE: tl.constexpr, CHUNK: tl.constexpr, LANES: tl.constexpr,
    MAXIMIZE: tl.constexpr, COUPLED: tl.constexpr,
):  # fmt: skip
    """The first moments, and v, of one chunk; the chunk's Parts go to a column of partials."""
    chunk = tl.program_id(0)
    if found_inf is not None:
        if tl.load(found_inf) != 0:
            return
    layer = tl.load(owner + chunk)
    begin = (chunk - _entry(table, layers, FIRST, layer)) * CHUNK
    if begin == 0:
        if _entry(table, layers, COUNTS, layer) != 0:
            step = _entry(table, layers, STEP, layer).to(tl.pointer_type(tl.float64))
            tl.store(step, tl.load(step) + 1)
    size = _entry(table, layers, SIZE, layer)
    theta_at = _entry(table, layers, THETA, layer)
    grad_at = _entry(table, layers, GRAD, layer)
    m_at = _entry(table, layers, M, layer)
    v_at = _entry(table, layers, V, layer)
    b1 = beta1.to(COMPUTE)
    c1 = (1 - beta1).to(COMPUTE)
    b2 = beta2.to(COMPUTE)
    c2 = (1 - beta2).to(COMPUTE)
    scale = None
    if grad_scale is not None:
        scale = tl.load(grad_scale).to(COMPUTE)
    whole = (begin + CHUNK <= size) & (((theta_at | grad_at | m_at | v_at) & 15) == 0)
    if whole:
        high, s1, s2, low = _chunk_moments(
            theta_at, grad_at, m_at, v_at, begin, begin + CHUNK, scale, b1, c1, b2, c2, decay.to(COMPUTE),
            PARAM, COMPUTE, LANES, MAXIMIZE, COUPLED, True,
        )  # fmt: skip
    else:
        high, s1, s2, low = _chunk_moments(
            theta_at, grad_at, m_at, v_at, begin, tl.minimum(begin + CHUNK, size), scale, b1, c1, b2, c2,
            decay.to(COMPUTE), PARAM, COMPUTE, LANES, MAXIMIZE, COUPLED, False,
        )  # fmt: skip
    _store_parts(partials, chunks, chunk, high, s1, s2, low)


@triton.jit
def _combined(partials, chunks, first, last, LANES: tl.constexpr):
    """The Parts of a layer from those of its chunks first … last - 1, always in the same order."""
    lane = tl.arange(0, LANES)
    highs = tl.zeros([LANES], tl.float64)
    lows = tl.full([LANES], INFINITY, tl.float64)
    for start in range(first, last, LANES):
        at = start + lane
        highs = tl.maximum(highs, tl.load(partials + HIGH * chunks + at, mask=at < last, other=0.0))
        lows = tl.minimum(lows, tl.load(partials + LOW * chunks + at, mask=at < last, other=INFINITY))
    high = tl.max(highs, axis=0)
    scale = tl.where(high == 0.0, 1.0, high)
    s1 = tl.zeros([LANES], tl.float64)
    s2 = tl.zeros([LANES], tl.float64)
    for start in range(first, last, LANES):
        at = start + lane
        ratio = tl.load(partials + HIGH * chunks + at, mask=at < last, other=0.0) / scale
        s1 += tl.load(partials + S1 * chunks + at, mask=at < last, other=0.0) * ratio
        s2 += tl.load(partials + S2 * chunks + at, mask=at < last, other=0.0) * (ratio * ratio)
    return high, tl.sum(s1, axis=0), tl.sum(s2, axis=0), tl.min(lows, axis=0)


@triton.jit
def _layer_parts(table, layers, layer, partials, chunks, CHUNK: tl.constexpr, LANES: tl.constexpr):
    first = _entry(table, layers, FIRST, layer)
    count = tl.maximum((_entry(table, layers, SIZE, layer) + CHUNK - 1) // CHUNK, 1)
    return _combined(partials, chunks, first, first + count, LANES)


@triton.jit
def _down_scaling(s1, s2, size, POWER: tl.constexpr):
    """S: γ, at most 1; 1 where v is all zero; NaN where a sum is."""
    cos2 = (s1 / size) * (s1 / tl.where(s1 == 0.0, 1.0, s2))
    cos2 = tl.where((cos2 > 1.0) | (s1 == 0.0), 1.0, cos2)
    if POWER != 2:
        cos2 = tl.exp(tl.log(cos2) * (POWER / 2))
    return cos2


@triton.jit(do_not_specialize=["layers", "chunks"])
def parts_kernel(table, partials, parts, layers, chunks, found_inf, CHUNK: tl.constexpr, LANES: tl.constexpr):
    """The Parts of one layer, for whoever combines them with those of other processes."""
    layer = tl.program_id(0)
    if found_inf is not None:
        if tl.load(found_inf) != 0:
            return
    high, s1, s2, low = _layer_parts(table, layers, layer, partials, chunks, CHUNK, LANES)
    _store_parts(parts, layers, layer, high, s1, s2, low)


@triton.jit(do_not_specialize=["layers", "chunks"])
def coefficients_kernel(
    table, partials, gammas, lows, coefficients, layers, chunks, found_inf, lr_at,
    lr: tl.float64, log_beta1: tl.float64, log_beta2: tl.float64, eps: tl.float64, tau: tl.float64, decay: tl.float64,
    COMPUTE: tl.constexpr, CHUNK: tl.constexpr, LANES: tl.constexpr, POWER: tl.constexpr,
    EPS_INSIDE: tl.constexpr,
):  # fmt: skip
    """What the update of one layer needs, formed in double. γ and min v from the layer's own chunks, or given."""
    layer = tl.program_id(0)
    if found_inf is not None:
        if tl.load(found_inf) != 0:
            return
    if gammas is None:
        _, s1, s2, low = _layer_parts(table, layers, layer, partials, chunks, CHUNK, LANES)
        low = tl.where(s1 != s1, s1, low)
        gamma = _down_scaling(s1, s2, _entry(table, layers, SIZE, layer).to(tl.float64), POWER)
    else:
        gamma = tl.load(gammas + layer)
        low = tl.load(lows + layer)
    if lr_at is not None:
        lr = tl.load(lr_at).to(tl.float64)
    t = tl.load(_entry(table, layers, STEP, layer).to(tl.pointer_type(tl.float64)))
    scale = gamma / _bias_correction(log_beta2, t)
    # min w is the w of min v, since √ and its argument are monotone: by the same formula, in the same dtype.
    least = _root(low.to(COMPUTE), scale.to(COMPUTE), eps.to(COMPUTE), EPS_INSIDE)
    tl.store(coefficients + SCALE * layers + layer, scale)
    tl.store(coefficients + SHIFT * layers + layer, (tau.to(COMPUTE) * least).to(tl.float64))
    tl.store(coefficients + RATE * layers + layer, lr / _bias_correction(log_beta1, t))
    tl.store(coefficients + SHRINK * layers + layer, 1 - lr * decay)


@triton.jit
def _chunk_descend(
    theta_at, m_at, v_at, begin, end, scale, shift, rate, shrink, eps,
    PARAM: tl.constexpr, COMPUTE: tl.constexpr, LANES: tl.constexpr, EPS_INSIDE: tl.constexpr,
    DECOUPLED: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    for start in range(begin, end, LANES):
        at = start + tl.arange(0, LANES)
        w = _root(_load(v_at, at, end, COMPUTE, WHOLE), scale, eps, EPS_INSIDE) - shift
        theta = _load(theta_at, at, end, PARAM, WHOLE).to(COMPUTE)
        if DECOUPLED:
            theta = shrink * theta
        theta = theta - _divide(rate * _load(m_at, at, end, COMPUTE, WHOLE), w)
        _store(theta_at, at, end, theta, PARAM, WHOLE)


@triton.jit(do_not_specialize=["layers"])
def descend_kernel(
    table, owner, coefficients, layers, found_inf, eps: tl.float64,
    PARAM: tl.constexpr, COMPUTE: tl.constexpr, CHUNK: tl.constexpr, LANES: tl.constexpr,
    EPS_INSIDE: tl.constexpr, DECOUPLED: tl.constexpr,
):  # fmt: skip
    """θ of one chunk. The last chunk goes first: the cache still holds the m and v that were written last."""
    chunk = tl.num_programs(0) - 1 - tl.program_id(0)
    if found_inf is not None:
        if tl.load(found_inf) != 0:
            return
    layer = tl.load(owner + chunk)
    begin = (chunk - _entry(table, layers, FIRST, layer)) * CHUNK
    size = _entry(table, layers, SIZE, layer)
    theta_at = _entry(table, layers, THETA, layer)
    m_at = _entry(table, layers, M, layer)
    v_at = _entry(table, layers, V, layer)
    scale = tl.load(coefficients + SCALE * layers + layer).to(COMPUTE)
    shift = tl.load(coefficients + SHIFT * layers + layer).to(COMPUTE)
    rate = tl.load(coefficients + RATE * layers + layer).to(COMPUTE)
    shrink = tl.load(coefficients + SHRINK * layers + layer).to(COMPUTE)
    whole = (begin + CHUNK <= size) & (((theta_at | m_at | v_at) & 15) == 0)
    if whole:
        _chunk_descend(
            theta_at, m_at, v_at, begin, begin + CHUNK, scale, shift, rate, shrink, eps.to(COMPUTE),
            PARAM, COMPUTE, LANES, EPS_INSIDE, DECOUPLED, True,
        )  # fmt: skip
    else:
        _chunk_descend(
            theta_at, m_at, v_at, begin, tl.minimum(begin + CHUNK, size), scale, shift, rate, shrink,
            eps.to(COMPUTE), PARAM, COMPUTE, LANES, EPS_INSIDE, DECOUPLED, False,
        )  # fmt: skip
