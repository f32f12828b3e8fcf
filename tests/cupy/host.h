// What kernels.cu uses of CUDA, on a CPU: blocks one after the other, the threads of a block as threads.
#include <atomic>
#include <barrier>
#include <cmath>
#include <cstring>
#include <thread>
#include <vector>

#define __CUDACC__
#define THREADS 4
#define __device__ inline
#define __global__
#define __shared__ static
#define __launch_bounds__(n)

struct Index {
    int x;
};
static thread_local Index threadIdx, blockIdx;
static std::barrier<> together(THREADS);

static inline void __syncthreads() { together.arrive_and_wait(); }
static inline void __threadfence() { std::atomic_thread_fence(std::memory_order_seq_cst); }
static inline unsigned atomicAdd(unsigned* at, unsigned x) { return __atomic_fetch_add(at, x, __ATOMIC_SEQ_CST); }

typedef _Float16 HostHalf;  // here, so that a compiler without it is found out before kernels.cu is compiled

#define HALF_CONVERSIONS                                                                                         \
    static inline float widen(Half x) { HostHalf h; std::memcpy(&h, &x.bits, 2); return h; }                       \
    static inline void narrow(float x, Half& to) { HostHalf h = x; std::memcpy(&to.bits, &h, 2); }
