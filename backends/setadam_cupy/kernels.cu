// SET-Adam's step on a GPU in two kernels, each over all layers of a launch.
//
// `moments` updates m and v and writes γ/(1 - β₂ᵗ) and min v of each layer to `results`; `descend` updates θ. They
// restate setadam_core.spec.trace. Every sum has a fixed order, so a step is reproducible bit for bit.
// Σv and Σv² of float layers are summed in double, where no square of a float under- or overflows; those of double
// layers are summed relative to the largest v so far. Either way γ depends only on v's direction.
//
// S is the storage type of parameters and gradients, C the type of the moments and the arithmetic.
// NVRTC compiles this so that division and square root are correctly rounded, and subnormals are kept, which are its
// defaults; and that no product and sum become one operation but by `fused`, so that a coordinate's rounding does not
// depend on its place (`launch.module`). The compiled code shows this; it has not run on a GPU yet.

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
__device__ float fused(float a, float b, float c) { return fmaf(a, b, c); }  // ab + c, rounded once
__device__ double fused(double a, double b, double c) { return fma(a, b, c); }

// ---- a part of a layer, for γ and min v: setadam_core.parts.Parts, except that `high` is only a scale

__device__ double smaller(double a, double b) { return (b < a || b != b) ? b : a; }  // NaN stays

__device__ double infinity() { return -log(0.0); }  // NVRTC has no macro for it

template <typename C>
struct Parts;

template <>
struct Parts<float> {
    double s1, s2, low;  // Σv, Σv², min v

    static __device__ Parts none() { return {0.0, 0.0, infinity()}; }

    __device__ void add(float v) {
        double wide = v;
        s1 += wide;
        s2 = fused(wide, wide, s2);
        low = smaller(low, wide);
    }

    __device__ void merge(const Parts& b) {
        s1 += b.s1;
        s2 += b.s2;
        low = smaller(low, b.low);
    }
};

template <>
struct Parts<double> {
    double s1, s2, low, high;  // Σ v/high, Σ (v/high)², min v, a scale

    static __device__ Parts none() { return {0.0, 0.0, infinity(), 0.0}; }

    __device__ void add(double v) {
        low = smaller(low, v);
        if (v > high) {
            double shrunk = high / v, r = v / v;  // NaN for ∞, as in the specification
            s1 = fused(s1, shrunk, r);
            s2 = fused(s2, shrunk * shrunk, r);
            high = v;
        } else if (v != 0.0) {
            double r = v / high;
            s1 += r;
            s2 = fused(r, r, s2);
        }
    }

    __device__ void merge(const Parts& b) {
        double both = high > b.high ? high : b.high;
        double of_a = both > 0.0 ? high / both : 1.0, of_b = both > 0.0 ? b.high / both : 1.0;
        s1 = s1 * of_a + b.s1 * of_b;
        s2 = s2 * (of_a * of_a) + b.s2 * (of_b * of_b);
        low = smaller(low, b.low);
        high = both;
    }
};

// The sum over a block's threads, as a tree, in thread 0.
template <typename C>
__device__ Parts<C> reduced(const Parts<C>& mine, Parts<C>* shared) {
    shared[threadIdx.x] = mine;
    __syncthreads();
    for (int half = THREADS / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) shared[threadIdx.x].merge(shared[threadIdx.x + half]);
        __syncthreads();
    }
    return shared[0];
}

// What another block has written in this launch, read past the caches of this one's processor.
template <typename C>
__device__ Parts<C> fresh(const Parts<C>* written) {
    Parts<C> read;
    const volatile Parts<C>& other = *written;
    read.s1 = other.s1;
    read.s2 = other.s2;
    read.low = other.low;
    if constexpr (sizeof(C) == sizeof(double)) read.high = other.high;
    return read;
}

// S: γ of a whole layer of d coordinates. 1 if v is all zero; NaN propagates.
__device__ double down_scaling(double s1, double s2, i64 d, double power) {
    if (power == 0.0 || s2 == 0.0) return 1.0;
    double cos2 = (s1 / (double)d) * (s1 / s2);
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

// ---- a thread's coordinates, N at a time, which lie side by side: a word of 16 bytes of each moment

template <typename T, int N>
struct alignas(N * sizeof(T)) Word {
    T at[N];
};

// How N coordinates are read and written: as one word, or where a tensor begins in the middle of one, one by one.
template <int N, bool ALIGNED>
struct Access {
    static constexpr int count = N;

    template <typename T>
    static __device__ Word<T, N> load(const T* from) {
        if constexpr (ALIGNED) {
            return *(const Word<T, N>*)from;
        } else {
            Word<T, N> word;
            for (int k = 0; k < N; k++) word.at[k] = from[k];
            return word;
        }
    }

    template <typename T>
    static __device__ void store(const Word<T, N>& word, T* to) {
        if constexpr (ALIGNED) {
            *(Word<T, N>*)to = word;
        } else {
            for (int k = 0; k < N; k++) to[k] = word.at[k];
        }
    }
};

template <int N, typename T>
__device__ bool is_aligned(const T* p) {
    return (address)p % sizeof(Word<T, N>) == 0;
}

// body(i, access) for all coordinates of a block's part: the same ones in a thread, in the same order, for any alignment.
template <int N, typename Body>
__device__ void each(const Place& at, i64 size, bool aligned, const Body& body) {
    const i64 stride = (i64)at.parts * THREADS * N;
#pragma unroll 1  // unrolled, the loads of a word follow the stores of the one before
    for (i64 i = ((i64)at.part * THREADS + threadIdx.x) * N; i < size; i += stride) {
        if (size - i >= N) {
            if (aligned) body(i, Access<N, true>());
            else body(i, Access<N, false>());
        } else {
#pragma unroll 1
            for (; i < size; i++) body(i, Access<1, true>());
        }
    }
}

// ---- the two kernels

template <typename S, typename C>
__device__ void moments(const Table& table, const Step& step, Parts<C>* parts, double* results, unsigned* arrived) {
    __shared__ Parts<C> shared[THREADS];
    __shared__ bool last;
    constexpr int N = 16 / sizeof(C);
    const Place at = place(table);
    const i64 size = table.size[at.entry];
    const S* theta = (const S*)table.theta[at.entry] + at.start;
    const S* grad = (const S*)table.grad[at.entry] + at.start;
    C* m = (C*)table.m[at.entry] + at.start;
    C* v = (C*)table.v[at.entry] + at.start;
    const C sign = step.maximize ? -1 : 1;  // here, where it changes no rounding
    const C beta1 = (C)step.beta1, rest1 = sign * (C)step.rest1, beta2 = (C)step.beta2, rest2 = (C)step.rest2;
    const C decay = sign * (C)step.decay;
    const bool aligned = is_aligned<N>(theta) && is_aligned<N>(grad) && is_aligned<N>(m) && is_aligned<N>(v);

    Parts<C> mine = Parts<C>::none();
    each<N>(at, size, aligned, [&](i64 i, auto access) {
        auto ms = access.load(m + i);
        auto vs = access.load(v + i);
        const auto gs = access.load(grad + i);
        const auto thetas = decay != 0 ? access.load(theta + i) : gs;
        for (int k = 0; k < access.count; k++) {
            C g = widen(gs.at[k]);
            if (decay != 0) g = fused(decay, widen(thetas.at[k]), g);
            ms.at[k] = fused(beta1, ms.at[k], rest1 * g);
            vs.at[k] = fused(beta2, vs.at[k], rest2 * (g * g));
            mine.add(vs.at[k]);
        }
        access.store(ms, m + i);
        access.store(vs, v + i);
    });
    const Parts<C> own = reduced(mine, shared);
    if (threadIdx.x == 0) {
        parts[blockIdx.x] = own;
        __threadfence();
        last = atomicAdd(&arrived[at.slot], 1u) + 1 == (unsigned)at.parts;
    }
    __syncthreads();
    if (!last) return;

    // The last block to finish a layer merges its parts, in their order.
    __threadfence();
    mine = Parts<C>::none();
    for (int i = threadIdx.x; i < at.parts; i += THREADS) mine.merge(fresh(&parts[blockIdx.x - at.part + i]));
    const Parts<C> whole = reduced(mine, shared);
    if (threadIdx.x == 0) {
        results[2 * at.slot] = down_scaling(whole.s1, whole.s2, size, step.power) / step.bias2;
        results[2 * at.slot + 1] = whole.low;
        arrived[at.slot] = 0;  // for the next launch
    }
}

// E: w = √(v·scale + ε), or √(v·scale) + ε, where one of `inside` and `outside` is ε and the other 0
template <typename C>
__device__ C embed_epsilon(C v, C scale, C inside, C outside) {
    return root(fused(v, scale, inside)) + outside;
}

template <typename S, typename C>
__device__ void descend(const Table& table, const Step& step, const double* results) {
    constexpr int N = 16 / sizeof(C);
    const Place at = place(table);
    const i64 size = table.size[at.entry];
    S* theta = (S*)table.theta[at.entry] + at.start;
    const C* m = (const C*)table.m[at.entry] + at.start;
    const C* v = (const C*)table.v[at.entry] + at.start;
    const C inside = step.eps_inside_sqrt ? (C)step.eps : 0, outside = step.eps_inside_sqrt ? 0 : (C)step.eps;
    const C rate = (C)step.rate, shrink = (C)step.shrink, scale = (C)results[2 * at.slot];
    // Each operation is monotone: the smallest w is that of the smallest v.
    const C w_min = embed_epsilon((C)results[2 * at.slot + 1], scale, inside, outside);
    const C shift = (C)step.tau * w_min;
    const bool aligned = is_aligned<N>(theta) && is_aligned<N>(m) && is_aligned<N>(v);

    each<N>(at, size, aligned, [&](i64 i, auto access) {
        const auto vs = access.load(v + i);
        const auto ms = access.load(m + i);
        auto thetas = access.load(theta + i);
        for (int k = 0; k < access.count; k++) {
            const C w = embed_epsilon(vs.at[k], scale, inside, outside) - shift;
            narrow(fused(-rate, ms.at[k] / w, shrink * widen(thetas.at[k])), thetas.at[k]);
        }
        access.store(thetas, theta + i);
    });
}

#define KERNELS(NAME, S, C)                                                                                    \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                          \
        moments_##NAME(Table table, Step step, Parts<C>* parts, double* results, unsigned* arrived) {              \
        moments<S, C>(table, step, parts, results, arrived);                                                       \
    }                                                                                                              \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                          \
        descend_##NAME(Table table, Step step, const double* results) {                                            \
        descend<S, C>(table, step, results);                                                                       \
    }

KERNELS(float16, Half, float)
KERNELS(float32, float, float)
KERNELS(float64, double, double)
