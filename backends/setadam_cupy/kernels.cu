// SET-Adam's step on a GPU in two kernels, each over all layers of a launch.
//
// `moments` updates m and v and writes γ and min v of each layer to `results`; `descend` updates θ. They
// restate setadam_core.spec.trace. Every sum has a fixed order, so a step is reproducible bit for bit.
// Σv and Σv² of float layers are summed in double, where no square of a float under- or overflows; those of double
// layers are summed relative to the largest v so far. Either way γ depends only on v's direction.
//
// S is the storage type of parameters and gradients, C the type of the moments and the arithmetic.
// NVRTC compiles this with its defaults (`launch.module`): division and square root are correctly rounded, and
// subnormals are kept. The compiled code shows this; it has not run on a GPU yet.

#ifndef THREADS
#define THREADS 256  // in a block; a power of two
#endif
#define LAYERS 64  // entries of a launch, whose arguments must fit into 4 KB

#ifndef __CUDACC__
#error "kernels.cu is CUDA C++; to run it on a CPU, define what it uses of CUDA, and __CUDACC__"
#endif

typedef long long i64;
typedef unsigned long long address;

// The layers of one launch. Entry e has layers of size[e] coordinates, one after the other in memory, and
// blocks[e] blocks share each of them. Its blocks start at first[e], its layers at slot[e].
struct Table {
    address theta[LAYERS], grad[LAYERS], m[LAYERS], v[LAYERS];
    i64 size[LAYERS];
    int first[LAYERS], blocks[LAYERS], slot[LAYERS];
    int entries, unused;
};

// The coefficients of one step, computed in double on the host, and rounded once, here, to C.
struct Step {
    double beta1, rest1, beta2, rest2;  // rest = 1 - β
    double bias2, rate;                 // 1 - β₂ᵗ and η/(1 - β₁ᵗ)
    double eps, tau, power;
    double decay, shrink;  // λ, if it is coupled, else 0; 1 - ηλ, if it is decoupled, else 1
    int maximize, eps_inside_sqrt;
};

// ---- 16-bit storage, by the conversion instructions, so that no header is needed

struct Half {
    unsigned short bits;
};

#ifndef HALF_CONVERSIONS
__device__ float widen(Half x) {
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(x.bits));
    return wide;
}
__device__ void narrow(float x, Half& to) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(to.bits) : "f"(x)); }
#else
HALF_CONVERSIONS
#endif
__device__ float widen(float x) { return x; }
__device__ void narrow(float x, float& to) { to = x; }
__device__ double widen(double x) { return x; }
__device__ void narrow(double x, double& to) { to = x; }

__device__ float root(float x) { return sqrtf(x); }
__device__ double root(double x) { return sqrt(x); }

// ---- a part of a layer, for γ and min v: setadam_core.parts.Parts, except that `high` is only a scale

struct Parts {
    double high, s1, s2, low;  // scale, Σ v/scale, Σ (v/scale)², min v
};

__device__ Parts none() {
    Parts p = {0.0, 0.0, 0.0, -log(0.0)};  // +∞; NVRTC has no macro for it
    return p;
}

__device__ double smaller(double a, double b) { return (b < a || b != b) ? b : a; }  // NaN stays

__device__ void add(Parts& p, float v) {
    double wide = v;
    p.high = 1.0;
    p.s1 += wide;
    p.s2 += wide * wide;
    p.low = smaller(p.low, wide);
}

__device__ void add(Parts& p, double v) {
    p.low = smaller(p.low, v);
    if (v > p.high) {
        double shrunk = p.high / v, r = v / v;  // NaN for ∞, as in the specification
        p.s1 = p.s1 * shrunk + r;
        p.s2 = p.s2 * (shrunk * shrunk) + r;
        p.high = v;
    } else if (v != 0.0) {
        double r = v / p.high;
        p.s1 += r;
        p.s2 += r * r;
    }
}

__device__ Parts merged(const Parts& a, const Parts& b) {
    double high = a.high > b.high ? a.high : b.high;
    double of_a = high > 0.0 ? a.high / high : 1.0, of_b = high > 0.0 ? b.high / high : 1.0;
    Parts p = {high, a.s1 * of_a + b.s1 * of_b, a.s2 * (of_a * of_a) + b.s2 * (of_b * of_b), smaller(a.low, b.low)};
    return p;
}

// The sum over a block's threads, as a tree, in thread 0.
__device__ Parts reduced(const Parts& mine, Parts* shared) {
    shared[threadIdx.x] = mine;
    __syncthreads();
    for (int half = THREADS / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) shared[threadIdx.x] = merged(shared[threadIdx.x], shared[threadIdx.x + half]);
        __syncthreads();
    }
    return shared[0];
}

// S: γ of a whole layer of d coordinates. 1 if v is all zero; NaN propagates.
__device__ double down_scaling(const Parts& p, i64 d, double power) {
    if (power == 0.0 || p.s2 == 0.0) return 1.0;
    double cos2 = (p.s1 / (double)d) * (p.s1 / p.s2);
    if (cos2 > 1.0) cos2 = 1.0;
    return power == 2.0 ? cos2 : pow(cos2, power / 2);
}

// ---- which part of which layer a block processes

struct Place {
    int entry, part, parts, slot;
    i64 start;  // of the layer, in coordinates from the entry's first
};

__device__ Place place(const Table& table) {
    int block = blockIdx.x, low = 0, high = table.entries;  // the last entry that starts at or before it
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (table.first[middle] <= block) low = middle;
        else high = middle;
    }
    int local = block - table.first[low], parts = table.blocks[low], layer = local / parts;
    Place p = {low, local % parts, parts, table.slot[low] + layer, layer * table.size[low]};
    return p;
}

// ---- the two kernels

template <typename S, typename C>
__device__ void moments(const Table& table, const Step& step, Parts* parts, double* results, unsigned* arrived) {
    __shared__ Parts shared[THREADS];
    __shared__ bool last;
    const Place at = place(table);
    const i64 size = table.size[at.entry];
    const S* theta = (const S*)table.theta[at.entry] + at.start;
    const S* grad = (const S*)table.grad[at.entry] + at.start;
    C* m = (C*)table.m[at.entry] + at.start;
    C* v = (C*)table.v[at.entry] + at.start;
    const C beta1 = (C)step.beta1, rest1 = (C)step.rest1, beta2 = (C)step.beta2, rest2 = (C)step.rest2;
    const C decay = (C)step.decay;

    Parts mine = none();
    for (i64 i = (i64)at.part * THREADS + threadIdx.x; i < size; i += (i64)at.parts * THREADS) {
        C g = widen(grad[i]);
        if (step.maximize) g = -g;
        if (decay != 0) g = g + decay * widen(theta[i]);
        m[i] = beta1 * m[i] + rest1 * g;
        const C new_v = beta2 * v[i] + rest2 * (g * g);
        v[i] = new_v;
        add(mine, new_v);
    }
    const Parts own = reduced(mine, shared);
    if (threadIdx.x == 0) {
        parts[blockIdx.x] = own;
        __threadfence();
        last = atomicAdd(&arrived[at.slot], 1u) + 1 == (unsigned)at.parts;
    }
    __syncthreads();
    if (!last) return;

    // The last block to finish a layer merges its parts, in their order.
    __threadfence();
    mine = none();
    for (int i = threadIdx.x; i < at.parts; i += THREADS) {
        const volatile double* other = (const volatile double*)&parts[blockIdx.x - at.part + i];
        Parts read = {other[0], other[1], other[2], other[3]};
        mine = merged(mine, read);
    }
    const Parts whole = reduced(mine, shared);
    if (threadIdx.x == 0) {
        results[2 * at.slot] = down_scaling(whole, size, step.power);
        results[2 * at.slot + 1] = whole.low;
        arrived[at.slot] = 0;  // for the next launch
    }
}

// E: w = √(x + ε), or √x + ε
template <typename C>
__device__ C embed_epsilon(C x, C eps, int inside) {
    return inside ? root(x + eps) : root(x) + eps;
}

template <typename S, typename C>
__device__ void descend(const Table& table, const Step& step, const double* results) {
    const Place at = place(table);
    const i64 size = table.size[at.entry];
    S* theta = (S*)table.theta[at.entry] + at.start;
    const C* m = (const C*)table.m[at.entry] + at.start;
    const C* v = (const C*)table.v[at.entry] + at.start;
    const C eps = (C)step.eps, rate = (C)step.rate, shrink = (C)step.shrink;
    const C scale = (C)(results[2 * at.slot] / step.bias2);
    // √ is monotone: the smallest w is that of the smallest v.
    const C w_min = embed_epsilon((C)results[2 * at.slot + 1] * scale, eps, step.eps_inside_sqrt);
    const C shift = (C)step.tau * w_min;

    for (i64 i = (i64)at.part * THREADS + threadIdx.x; i < size; i += (i64)at.parts * THREADS) {
        const C w = embed_epsilon(v[i] * scale, eps, step.eps_inside_sqrt) - shift;
        narrow(shrink * widen(theta[i]) - rate * (m[i] / w), theta[i]);
    }
}

#define KERNELS(NAME, S, C)                                                                                    \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                          \
        moments_##NAME(Table table, Step step, Parts* parts, double* results, unsigned* arrived) {                 \
        moments<S, C>(table, step, parts, results, arrived);                                                       \
    }                                                                                                              \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                          \
        descend_##NAME(Table table, Step step, const double* results) {                                            \
        descend<S, C>(table, step, results);                                                                       \
    }

KERNELS(float16, Half, float)
KERNELS(float32, float, float)
KERNELS(float64, double, double)
