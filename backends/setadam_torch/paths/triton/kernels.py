"""The kernels: one step of many layers of one dtype, in two launches.

    moments_kernel   new m and v of each chunk of coordinates, and Σv, Σv², max v, min v of the chunk. The last chunk
                     of a layer to finish puts the layer together: γ, and what the layer's update needs
    descend_kernel   new θ of each chunk

If layers are spread over processes, `moments_kernel` gives the Parts of what is here of each layer instead, and
`coefficients_kernel` takes γ and min v of the whole layers. They restate `setadam_core.spec.trace` and
`setadam_core.parts.combine`. Products and sums may be contracted; roots and divisions are correctly rounded, as the
conformance kit's bound asks.

A table of 64-bit integers says where everything lies. It has a column for each of the names below, with an entry
for each layer; the columns follow one another, as `tables` makes them. Addresses are those of contiguous memory.

step_kernel has both passes in one launch, and is not used unless it is asked for.

No result depends on which chunk is the last: it adds up all chunks, itself included, from memory, in their order.
"""

# `and` evaluates both sides of a value on the device, and what follows an `if` is compiled even if that returns.
# A dtype that is a constexpr stands on the left: in Triton 3.3 a dtype is unequal to every constexpr on its right.
# ruff: noqa: RET505, SIM102, SIM108, SIM300
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

# How the lanes of a chunk lie in memory.
WORDS = tl.constexpr(0)  # whole 16-byte words of m and v, and words of as many coordinates of θ and g
LOOSE = tl.constexpr(1)  # the same, except that θ and g begin between two words
EDGES = tl.constexpr(2)  # coordinates one by one: those before the first and after the last word, or all

READY = tl.constexpr(-1)  # in place of the number of chunks that are done: what the layer's update needs is there

INFINITY = tl.constexpr(float("inf"))
LOG2 = tl.constexpr(0.6931471805599453)
LOG2_HIGH = tl.constexpr(0.6931471803691238)  # 32 bits of log 2, so that its small multiples are exact
LOG2_LOW = tl.constexpr(1.9082149292705877e-10)  # the rest
TERMS = tl.constexpr(13)  # of eʳ - 1: the next, for |r| ≤ log(2)/2, is 2⁻⁵⁸ of the sum


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
    if INSIDE:
        x = tl.fma(v, scale, eps)
    else:
        x = v * scale
    if x.dtype == tl.float64:
        x = tl.sqrt(x)
    else:
        x = tl.sqrt_rn(x)
    if not INSIDE:
        x = x + eps
    return x


@triton.jit
def _bias_correction(log_beta, t):
    """1 - βᵗ in double, as -expm1(x) with x = t log β ≤ 0, x = k log 2 + r: 2ᵏ(eʳ - 1) + (2ᵏ - 1).

    Fifty operations, on which the last block of each layer waits: a library's exp and log take three times as many.
    """
    x = tl.maximum(t * log_beta, -100.0)  # 1 - e⁻¹⁰⁰ is 1
    k = tl.floor(x * (1 / LOG2) + 0.5)
    r = (x - k * LOG2_HIGH) - k * LOG2_LOW
    series = tl.full(r.shape, 1.0, tl.float64)
    for n in tl.static_range(TERMS, 1, -1):
        series = series * (r * (1.0 / n)) + 1.0
    power = ((k.to(tl.int64) + 1023) << 52).to(tl.float64, bitcast=True)
    return -(power * (r * series) + (power - 1.0))


# ---- the coordinates of a chunk


@triton.jit
def _lanes(start, count, head, gap, LANES: tl.constexpr, HOW: tl.constexpr):
    """Offsets of lanes start … start + LANES - 1 of count, and which there are. EDGES leave out the gap after head."""
    lane = start + tl.arange(0, LANES)
    at = lane
    if HOW == EDGES:
        at = tl.where(lane < head, lane, lane + gap)
    return at, lane < count


@triton.jit
def _pointer(address, DTYPE: tl.constexpr, BYTES: tl.constexpr, ALIGNED: tl.constexpr):
    """The pointer to an address, which is a multiple of BYTES if it is ALIGNED."""
    pointer = address.to(tl.pointer_type(DTYPE))
    if ALIGNED:
        pointer = tl.multiple_of(pointer, BYTES)
    return pointer


@triton.jit
def _count(count, WORD: tl.constexpr, HOW: tl.constexpr):
    """The number of lanes. Of words it is a multiple, so that a mask takes or leaves each of them whole."""
    if HOW != EDGES:
        count = tl.multiple_of(count, WORD)
    return count


@triton.jit
def _cut(begin, end, m_at, v_at, COMPUTE: tl.constexpr):
    """How a chunk lies to the 16-byte words of m and v: coordinates before the first word, and in whole words.

    No coordinate is in a word if m and v lie to words in different ways.
    """
    BYTES: tl.constexpr = 8 if COMPUTE == tl.float64 else 4
    WORD: tl.constexpr = 16 // BYTES
    size = (end - begin).to(tl.int32)
    first = m_at + begin * BYTES
    head = tl.minimum((((-first) & 15) // BYTES).to(tl.int32), size)
    inner = ((size - head) // WORD) * WORD
    if ((m_at ^ v_at) & 15) != 0:
        head = head * 0
        inner = inner * 0
    return head, inner, size - inner


# ---- the first pass


@triton.jit
def _some_moments(
    theta_at, grad_at, m_at, v_at, count, head, gap, grad_scale, beta1, one_less_beta1, beta2, one_less_beta2, decay,
    PARAM: tl.constexpr, COMPUTE: tl.constexpr, LANES: tl.constexpr, MAXIMIZE: tl.constexpr,
    COUPLED: tl.constexpr, HOW: tl.constexpr,
):  # fmt: skip
    """Update m and v of some coordinates from these addresses on; their Parts.

    float64 sums are relative to max v. Those of float32 need no scale, since in double no square of a float32 over- or
    underflows: their high is 1.
    """
    WORD: tl.constexpr = 2 if COMPUTE == tl.float64 else 4
    SHORT: tl.constexpr = 16 if PARAM == COMPUTE else 8  # bytes of as many coordinates of θ or g
    count = _count(count, WORD, HOW)
    theta = _pointer(theta_at, PARAM, SHORT, HOW == WORDS)
    grad = _pointer(grad_at, PARAM, SHORT, HOW == WORDS)
    first = _pointer(m_at, COMPUTE, 16, HOW != EDGES)
    second = _pointer(v_at, COMPUTE, 16, HOW != EDGES)
    high = tl.zeros([LANES], COMPUTE)
    low = tl.full([LANES], INFINITY, COMPUTE)
    s1 = tl.zeros([LANES], tl.float64)
    s2 = tl.zeros([LANES], tl.float64)
    for start in range(0, count, LANES):
        at, there = _lanes(start, count, head, gap, LANES, HOW)
        v = tl.load(second + at, mask=there, other=0.0)
        m = tl.load(first + at, mask=there, other=0.0)
        g = tl.load(grad + at, mask=there, other=0.0).to(COMPUTE)
        if COUPLED:
            x = tl.load(theta + at, mask=there, other=0.0).to(COMPUTE)
        if grad_scale is not None:
            g = _divide(g, grad_scale)
            tl.store(grad + at, g.to(PARAM), mask=there)
        if MAXIMIZE:
            g = -g
        if COUPLED:
            g = g + decay * x
        m = beta1 * m + one_less_beta1 * g
        v = beta2 * v + one_less_beta2 * (g * g)
        tl.store(first + at, m, mask=there)
        tl.store(second + at, v, mask=there)
        low = tl.minimum(low, tl.where(there, v, INFINITY))
        if COMPUTE == tl.float64:
            high = tl.maximum(high, v)
        else:
            wide = v.to(tl.float64)
            s1 += wide
            s2 += wide * wide
    highest = tl.full([], 1.0, tl.float64)
    if COMPUTE == tl.float64:  # from the cache, now that the largest is known
        highest = tl.max(high, axis=0)
        scale = _scale(highest)
        tl.debug_barrier()
        for start in range(0, count, LANES):
            at, there = _lanes(start, count, head, gap, LANES, HOW)
            r = tl.load(second + at, mask=there, other=0.0) / scale
            s1 += r
            s2 += r * r
    return highest, tl.sum(s1, axis=0), tl.sum(s2, axis=0), tl.min(low, axis=0).to(tl.float64)


@triton.jit
def _scale(high):
    return tl.where(high == 0.0, 1.0, high)


@triton.jit
def _chunk_moments(
    table, layers, layer, begin, end, grad_scale_at, beta1, beta2, decay,
    PARAM: tl.constexpr, COMPUTE: tl.constexpr, LANES: tl.constexpr, MAXIMIZE: tl.constexpr, COUPLED: tl.constexpr,
):  # fmt: skip
    """Update m and v of coordinates begin … end - 1 of a layer; their Parts, NaN if one of them is not finite."""
    BYTES: tl.constexpr = 8 if COMPUTE == tl.float64 else 4
    SHORT: tl.constexpr = BYTES if PARAM == COMPUTE else 2
    WORD: tl.constexpr = 16 // BYTES
    theta_at = _entry(table, layers, THETA, layer) + begin * SHORT
    grad_at = _entry(table, layers, GRAD, layer) + begin * SHORT
    m_at = _entry(table, layers, M, layer)
    v_at = _entry(table, layers, V, layer)
    head, inner, rest = _cut(begin, end, m_at, v_at, COMPUTE)
    m_at += begin * BYTES
    v_at += begin * BYTES
    b1 = beta1.to(COMPUTE)
    c1 = (1 - beta1).to(COMPUTE)
    b2 = beta2.to(COMPUTE)
    c2 = (1 - beta2).to(COMPUTE)
    wd = decay.to(COMPUTE)
    scale = None
    if grad_scale_at is not None:
        scale = tl.load(grad_scale_at).to(COMPUTE)
    high = tl.full([], 0.0, tl.float64)
    s1 = tl.full([], 0.0, tl.float64)
    s2 = tl.full([], 0.0, tl.float64)
    low = tl.full([], INFINITY, tl.float64)
    if inner > 0:
        in_words = (grad_at + head * SHORT) % (WORD * SHORT) == 0
        if COUPLED:
            in_words = in_words & ((theta_at + head * SHORT) % (WORD * SHORT) == 0)
        if in_words:
            high, s1, s2, low = _some_moments(
                theta_at + head * SHORT, grad_at + head * SHORT, m_at + head * BYTES, v_at + head * BYTES,
                inner, 0, 0, scale, b1, c1, b2, c2, wd, PARAM, COMPUTE, LANES, MAXIMIZE, COUPLED, WORDS,
            )  # fmt: skip
        else:
            high, s1, s2, low = _some_moments(
                theta_at + head * SHORT, grad_at + head * SHORT, m_at + head * BYTES, v_at + head * BYTES,
                inner, 0, 0, scale, b1, c1, b2, c2, wd, PARAM, COMPUTE, LANES, MAXIMIZE, COUPLED, LOOSE,
            )  # fmt: skip
    if rest > 0:
        a, b, c, d = _some_moments(
            theta_at, grad_at, m_at, v_at, rest, head, inner, scale, b1, c1, b2, c2, wd,
            PARAM, COMPUTE, LANES, MAXIMIZE, COUPLED, EDGES,
        )  # fmt: skip
        low = tl.minimum(low, d)
        if COMPUTE == tl.float64:
            whole = _scale(tl.maximum(high, a))
            ours = high / whole
            theirs = a / whole
            high = tl.maximum(high, a)
            s1 = s1 * ours + b * theirs
            s2 = s2 * (ours * ours) + c * (theirs * theirs)
        else:
            high = a
            s1 += b
            s2 += c
    high = tl.where(s1 == 0.0, 0.0, high)
    # Maxima and minima drop NaN; a sum does not, and here it speaks for them.
    lost = (s1 - s1) != 0.0
    nan = s1 - s1
    return tl.where(lost, nan, high), tl.where(lost, nan, s1), tl.where(lost, nan, s2), tl.where(lost, nan, low)


@triton.jit
def _store_parts(rows, stride, at, high, s1, s2, low):
    tl.store(rows + HIGH * stride + at, high)
    tl.store(rows + S1 * stride + at, s1)
    tl.store(rows + S2 * stride + at, s2)
    tl.store(rows + LOW * stride + at, low)


@triton.jit
def _part(partials, row: tl.constexpr, chunks, at, last, other):
    """From the second-level cache: another multiprocessor has written it, while this kernel ran."""
    return tl.load(partials + row * chunks + at, mask=at < last, other=other, cache_modifier=".cg")


@triton.jit
def _combined(partials, chunks, first, last, COMPUTE: tl.constexpr, LANES: tl.constexpr):
    """The Parts of a layer from those of its chunks first … last - 1, always in the same order."""
    lane = tl.arange(0, LANES)
    lows = tl.full([LANES], INFINITY, tl.float64)
    s1 = tl.zeros([LANES], tl.float64)
    s2 = tl.zeros([LANES], tl.float64)
    high = tl.full([], 1.0, tl.float64)
    if COMPUTE == tl.float64:
        highs = tl.zeros([LANES], tl.float64)
        for start in range(first, last, LANES):
            highs = tl.maximum(highs, _part(partials, HIGH, chunks, start + lane, last, 0.0))
        high = tl.max(highs, axis=0)
        scale = _scale(high)
    for start in range(first, last, LANES):
        at = start + lane
        x1 = _part(partials, S1, chunks, at, last, 0.0)
        x2 = _part(partials, S2, chunks, at, last, 0.0)
        lows = tl.minimum(lows, _part(partials, LOW, chunks, at, last, INFINITY))
        if COMPUTE == tl.float64:
            ratio = _part(partials, HIGH, chunks, at, last, 0.0) / scale
            x1 = x1 * ratio
            x2 = x2 * (ratio * ratio)
        s1 += x1
        s2 += x2
    total = tl.sum(s1, axis=0)
    low = tl.min(lows, axis=0)
    if COMPUTE != tl.float64:
        high = tl.where(total == 0.0, 0.0, high)
    lost = total != total
    return tl.where(lost, total, high), total, tl.sum(s2, axis=0), tl.where(lost, total, low)


@triton.jit
def _down_scaling(s1, s2, size, POWER: tl.constexpr):
    """S: γ, at most 1; 1 where v is all zero; NaN where a sum is. With Σv/c and Σv²/c², for any c."""
    one = tl.full([], 1.0, tl.float64)
    cos2 = (s1 * s1) / tl.where(s1 == 0.0, one, size * s2)
    cos2 = tl.where((cos2 > 1.0) | (s1 == 0.0), one, cos2)
    if POWER != 2:
        cos2 = tl.exp(tl.log(cos2) * (POWER / 2))
    return cos2


@triton.jit
def _store_coefficients(
    coefficients, layers, layer, there, gamma, low, t, lr_at, lr, log_beta1, log_beta2, eps, tau, decay,
    COMPUTE: tl.constexpr, EPS_INSIDE: tl.constexpr,
):  # fmt: skip
    """What the update of a layer, or of several, needs at step t, formed in double."""
    if lr_at is not None:
        lr = tl.load(lr_at).to(tl.float64)
    scale = gamma / _bias_correction(log_beta2, t)
    rate = lr / _bias_correction(log_beta1, t)
    # min w is the w of min v, since √ and its argument are monotone: by the same formula, in the same dtype.
    least = _root(low.to(COMPUTE), scale.to(COMPUTE), eps.to(COMPUTE), EPS_INSIDE)
    shift = (tau.to(COMPUTE) * least).to(tl.float64)
    tl.store(coefficients + SCALE * layers + layer, scale, mask=there)
    tl.store(coefficients + SHIFT * layers + layer, shift, mask=there)
    tl.store(coefficients + RATE * layers + layer, rate, mask=there)
    tl.store(coefficients + SHRINK * layers + layer, 1 - lr * decay + 0 * rate, mask=there)


@triton.jit(do_not_specialize=["layers", "chunks"])
def moments_kernel(
    table, owner, partials, arrived, coefficients, layers, chunks, found_inf, grad_scale, lr_at,
    lr: tl.float64, beta1: tl.float64, beta2: tl.float64, log_beta1: tl.float64, log_beta2: tl.float64,
    eps: tl.float64, tau: tl.float64, decay: tl.float64, parts,
    PARAM: tl.constexpr, COMPUTE: tl.constexpr, CHUNK: tl.constexpr, LANES: tl.constexpr,
    MAXIMIZE: tl.constexpr, COUPLED: tl.constexpr, POWER: tl.constexpr, EPS_INSIDE: tl.constexpr,
):  # fmt: skip
    """The moments of one chunk, and from the last chunk of a layer what is known of the layer.

    That goes to parts if they are given, and the step is counted here. Else it goes to coefficients, and descend_kernel
    counts the step: here other layers of a parameter still read the old count. arrived: for each layer, how many of
    its chunks are done, 0 before and after a launch.
    """
    chunk = tl.program_id(0)
    if found_inf is not None:
        if tl.load(found_inf) != 0:
            return
    layer = tl.load(owner + chunk)
    first = _entry(table, layers, FIRST, layer)
    size = _entry(table, layers, SIZE, layer)
    begin = (chunk - first) * CHUNK
    high, s1, s2, low = _chunk_moments(
        table, layers, layer, begin, tl.minimum(begin + CHUNK, size), grad_scale, beta1, beta2, decay,
        PARAM, COMPUTE, LANES, MAXIMIZE, COUPLED,
    )  # fmt: skip
    last, high, s1, s2, low = _arrive(
        partials, arrived, chunks, chunk, layer, first, size, high, s1, s2, low, COMPUTE, CHUNK, LANES
    )
    if last:
        if parts is not None:
            _store_parts(parts, layers, layer, high, s1, s2, low)
            _count_step(table, layers, layer)
        else:
            t = tl.load(_entry(table, layers, STEP, layer).to(tl.pointer_type(tl.float64))) + 1
            gamma = _down_scaling(s1, s2, size.to(tl.float64), POWER)
            _store_coefficients(
                coefficients, layers, layer, True, gamma, low, t, lr_at, lr, log_beta1, log_beta2, eps, tau, decay,
                COMPUTE, EPS_INSIDE,
            )  # fmt: skip


@triton.jit
def _arrive(
    partials, arrived, chunks, chunk, layer, first, size, high, s1, s2, low,
    COMPUTE: tl.constexpr, CHUNK: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Whether this is the last chunk of its layer to be done, and then the layer's Parts. It leaves the count at 0.

    The count is increased after the chunk's Parts are written (release), and what it was is known before others' Parts
    are read (acquire). A layer that is one chunk needs neither.
    """
    count = tl.maximum((size + CHUNK - 1) // CHUNK, 1)
    last = count == 1
    if count > 1:
        _store_parts(partials, chunks, chunk, high, s1, s2, low)
        tl.debug_barrier()
        before = tl.atomic_add(arrived + layer, 1, sem="acq_rel", scope="gpu")
        last = before == count - 1
        if last:
            high, s1, s2, low = _combined(partials, chunks, first, first + count, COMPUTE, LANES // 2)
            tl.store(arrived + layer, 0)
    return last, high, s1, s2, low


@triton.jit
def _count_step(table, layers, layer):
    if _entry(table, layers, COUNTS, layer) != 0:
        step = _entry(table, layers, STEP, layer).to(tl.pointer_type(tl.float64))
        tl.store(step, tl.load(step) + 1)


@triton.jit(do_not_specialize=["layers"])
def coefficients_kernel(
    table, gammas, lows, coefficients, layers, found_inf, lr_at,
    lr: tl.float64, log_beta1: tl.float64, log_beta2: tl.float64, eps: tl.float64, tau: tl.float64, decay: tl.float64,
    COMPUTE: tl.constexpr, LANES: tl.constexpr, EPS_INSIDE: tl.constexpr,
):  # fmt: skip
    """What the update of LANES layers needs, whose γ and min v are given, and whose step is counted."""
    if found_inf is not None:
        if tl.load(found_inf) != 0:
            return
    layer = tl.program_id(0) * LANES + tl.arange(0, LANES)
    there = layer < layers
    gamma = tl.load(gammas + layer, mask=there, other=1.0)
    low = tl.load(lows + layer, mask=there, other=0.0)
    steps = tl.load(table + STEP * layers + layer, mask=there, other=0)
    t = tl.load(steps.to(tl.pointer_type(tl.float64)), mask=there, other=1.0)
    _store_coefficients(
        coefficients, layers, layer, there, gamma, low, t, lr_at, lr, log_beta1, log_beta2, eps, tau, decay,
        COMPUTE, EPS_INSIDE,
    )  # fmt: skip


# ---- the second pass


@triton.jit
def _some_descend(
    theta_at, m_at, v_at, count, head, gap, scale, shift, rate, shrink, eps,
    PARAM: tl.constexpr, COMPUTE: tl.constexpr, LANES: tl.constexpr, EPS_INSIDE: tl.constexpr,
    DECOUPLED: tl.constexpr, HOW: tl.constexpr,
):  # fmt: skip
    """Update θ of some coordinates from these addresses on. All loads come first: a root branches, and nothing that
    follows it in the source is under way before it is done.
    """
    WORD: tl.constexpr = 2 if COMPUTE == tl.float64 else 4
    SHORT: tl.constexpr = 16 if PARAM == COMPUTE else 8  # bytes of as many coordinates of θ or g
    count = _count(count, WORD, HOW)
    param = _pointer(theta_at, PARAM, SHORT, HOW == WORDS)
    first = _pointer(m_at, COMPUTE, 16, HOW != EDGES)
    second = _pointer(v_at, COMPUTE, 16, HOW != EDGES)
    for start in range(0, count, LANES):
        at, there = _lanes(start, count, head, gap, LANES, HOW)
        v = tl.load(second + at, mask=there, other=1.0)
        m = tl.load(first + at, mask=there, other=0.0)
        theta = tl.load(param + at, mask=there, other=0.0).to(COMPUTE)
        w = _root(v, scale, eps, EPS_INSIDE) - shift
        if DECOUPLED:
            theta = shrink * theta
        theta = theta - _divide(rate * m, w)
        tl.store(param + at, theta.to(PARAM), mask=there)


@triton.jit
def _chunk_descend(
    table, coefficients, layers, layer, begin, end, eps,
    PARAM: tl.constexpr, COMPUTE: tl.constexpr, LANES: tl.constexpr, EPS_INSIDE: tl.constexpr, DECOUPLED: tl.constexpr,
):  # fmt: skip
    """Update θ of coordinates begin … end - 1 of a layer."""
    BYTES: tl.constexpr = 8 if COMPUTE == tl.float64 else 4
    SHORT: tl.constexpr = BYTES if PARAM == COMPUTE else 2
    WORD: tl.constexpr = 16 // BYTES
    theta_at = _entry(table, layers, THETA, layer) + begin * SHORT
    m_at = _entry(table, layers, M, layer)
    v_at = _entry(table, layers, V, layer)
    head, inner, rest = _cut(begin, end, m_at, v_at, COMPUTE)
    m_at += begin * BYTES
    v_at += begin * BYTES
    scale = tl.load(coefficients + SCALE * layers + layer, cache_modifier=".cg").to(COMPUTE)
    shift = tl.load(coefficients + SHIFT * layers + layer, cache_modifier=".cg").to(COMPUTE)
    rate = tl.load(coefficients + RATE * layers + layer, cache_modifier=".cg").to(COMPUTE)
    shrink = tl.load(coefficients + SHRINK * layers + layer, cache_modifier=".cg").to(COMPUTE)
    e = eps.to(COMPUTE)
    if inner > 0:
        if (theta_at + head * SHORT) % (WORD * SHORT) == 0:
            _some_descend(
                theta_at + head * SHORT, m_at + head * BYTES, v_at + head * BYTES, inner, 0, 0,
                scale, shift, rate, shrink, e, PARAM, COMPUTE, LANES, EPS_INSIDE, DECOUPLED, WORDS,
            )  # fmt: skip
        else:
            _some_descend(
                theta_at + head * SHORT, m_at + head * BYTES, v_at + head * BYTES, inner, 0, 0,
                scale, shift, rate, shrink, e, PARAM, COMPUTE, LANES, EPS_INSIDE, DECOUPLED, LOOSE,
            )  # fmt: skip
    if rest > 0:
        _some_descend(
            theta_at, m_at, v_at, rest, head, inner,
            scale, shift, rate, shrink, e, PARAM, COMPUTE, LANES, EPS_INSIDE, DECOUPLED, EDGES,
        )  # fmt: skip


@triton.jit(do_not_specialize=["layers"])
def descend_kernel(
    table, owner, coefficients, layers, found_inf, eps: tl.float64,
    PARAM: tl.constexpr, COMPUTE: tl.constexpr, CHUNK: tl.constexpr, LANES: tl.constexpr,
    EPS_INSIDE: tl.constexpr, DECOUPLED: tl.constexpr, COUNT: tl.constexpr,
):  # fmt: skip
    """θ of one chunk, and the step count if COUNT says so.

    The last chunk goes first: the cache still holds the m and v that were written last.
    """
    chunk = tl.num_programs(0) - 1 - tl.program_id(0)
    if found_inf is not None:
        if tl.load(found_inf) != 0:
            return
    layer = tl.load(owner + chunk)
    begin = (chunk - _entry(table, layers, FIRST, layer)) * CHUNK
    if COUNT:
        if begin == 0:
            _count_step(table, layers, layer)
    end = tl.minimum(begin + CHUNK, _entry(table, layers, SIZE, layer))
    _chunk_descend(table, coefficients, layers, layer, begin, end, eps, PARAM, COMPUTE, LANES, EPS_INSIDE, DECOUPLED)


# ---- both passes in one launch


@triton.jit(do_not_specialize=["layers", "chunks"])
def step_kernel(
    table, owner, partials, arrived, coefficients, layers, chunks, found_inf, grad_scale, lr_at,
    lr: tl.float64, beta1: tl.float64, beta2: tl.float64, log_beta1: tl.float64, log_beta2: tl.float64,
    eps: tl.float64, tau: tl.float64, decay: tl.float64, tasks, tickets,
    PARAM: tl.constexpr, COMPUTE: tl.constexpr, CHUNK: tl.constexpr, LANES: tl.constexpr,
    MAXIMIZE: tl.constexpr, COUPLED: tl.constexpr, POWER: tl.constexpr, EPS_INSIDE: tl.constexpr,
    DECOUPLED: tl.constexpr,
):  # fmt: skip
    """One task: the moments of a chunk (2 chunk), or its descent (2 chunk + 1), which waits for the layer's moments.

    A block takes the task of the ticket that it draws, so a ticket is always held by a block that has begun. In the
    list each descent comes after all moments of its layer. So a block waits for smaller tickets alone, whose blocks
    have begun. Of all tickets drawn and not done, the smallest never waits: all smaller ones are done. It ends, then
    the next one does, and so on, in whatever order the device starts its blocks, and however few it holds at a time.
    What it needs of the device is that a block that has begun gets on while others wait.

    The block that is done last counts the steps, since no other reads them any more, and sets all to 0.
    """
    if found_inf is not None:
        if tl.load(found_inf) != 0:
            return
    task = tl.load(tasks + tl.atomic_add(tickets, 1, sem="relaxed", scope="gpu"))
    chunk = task // 2
    layer = tl.load(owner + chunk)
    first = _entry(table, layers, FIRST, layer)
    size = _entry(table, layers, SIZE, layer)
    begin = (chunk - first) * CHUNK
    end = tl.minimum(begin + CHUNK, size)
    if task % 2 == 0:
        high, s1, s2, low = _chunk_moments(
            table, layers, layer, begin, end, grad_scale, beta1, beta2, decay,
            PARAM, COMPUTE, LANES, MAXIMIZE, COUPLED,
        )  # fmt: skip
        last, high, s1, s2, low = _arrive(
            partials, arrived, chunks, chunk, layer, first, size, high, s1, s2, low, COMPUTE, CHUNK, LANES
        )
        if last:
            t = tl.load(_entry(table, layers, STEP, layer).to(tl.pointer_type(tl.float64))) + 1
            gamma = _down_scaling(s1, s2, size.to(tl.float64), POWER)
            _store_coefficients(
                coefficients, layers, layer, True, gamma, low, t, lr_at, lr, log_beta1, log_beta2, eps, tau, decay,
                COMPUTE, EPS_INSIDE,
            )  # fmt: skip
            tl.debug_barrier()
            tl.atomic_xchg(arrived + layer, READY, sem="release", scope="gpu")
    else:
        while tl.atomic_add(arrived + layer, 0, sem="acquire", scope="gpu") != READY:
            pass
        _chunk_descend(
            table, coefficients, layers, layer, begin, end, eps, PARAM, COMPUTE, LANES, EPS_INSIDE, DECOUPLED
        )
    tl.debug_barrier()
    if tl.atomic_add(tickets + 1, 1, sem="acq_rel", scope="gpu") == 2 * chunks - 1:
        for start in range(0, layers, LANES):
            at = start + tl.arange(0, LANES)
            counts = tl.load(table + COUNTS * layers + at, mask=at < layers, other=0) != 0
            steps = tl.load(table + STEP * layers + at, mask=counts, other=0).to(tl.pointer_type(tl.float64))
            tl.store(steps, tl.load(steps, mask=counts, other=0.0) + 1, mask=counts)
            tl.store(arrived + at, 0, mask=at < layers)
        tl.store(tickets, 0)
        tl.store(tickets + 1, 0)
