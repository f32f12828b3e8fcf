// Appended to kernels.cu: launching a kernel of it on the CPU, for ctypes.
template <typename Kernel, typename... Arguments>
static void run(Kernel kernel, int blocks, Arguments... arguments) {
    std::vector<std::thread> threads;
    for (int t = 0; t < THREADS; t++) {
        threads.emplace_back([=] {
            threadIdx.x = t;
            for (int b = 0; b < blocks; b++) {
                blockIdx.x = b;
                kernel(arguments...);
                __syncthreads();
            }
        });
    }
    for (std::thread& thread : threads) thread.join();
}

#define LAUNCH(NAME, C)                                                                                           \
    extern "C" void launch_moments_##NAME(int blocks, Table* table, Step* step, Parts<C>* parts, double* results,   \
                                          unsigned* arrived) {                                                      \
        run(moments_##NAME, blocks, *table, *step, parts, results, arrived);                                        \
    }                                                                                                               \
    extern "C" void launch_descend_##NAME(int blocks, Table* table, Step* step, double* results) {                  \
        run(descend_##NAME, blocks, *table, *step, results);                                                        \
    }

LAUNCH(float16, float)
LAUNCH(float32, float)
LAUNCH(float64, double)

extern "C" int size_of_table() { return sizeof(Table); }
extern "C" int size_of_step() { return sizeof(Step); }
extern "C" int most_layers() { return LAYERS; }
