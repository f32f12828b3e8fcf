/* torch::optim::Adam and AdamW of PyTorch's C++ frontend, behind the line protocol of docs/conformance.md.
 *
 * The headers and libraries in torch's wheel are enough. TORCH is that folder:
 *
 *     TORCH=$(python -c "import torch; print(torch.__path__[0])")
 *     g++ -std=c++20 -O1 -I$TORCH/include -I$TORCH/include/torch/csrc/api/include torch_adam.cpp -o torch_adam \
 *         -L$TORCH/lib -Wl,-rpath,$TORCH/lib -ltorch -ltorch_cpu -lc10
 *     setadam-conformance run --backend cmd:"./torch_adam adamw"
 *
 * If torch.compiled_with_cxx11_abi() is False, add -D_GLIBCXX_USE_CXX11_ABI=0. */

#include <torch/optim/adam.h>
#include <torch/optim/adamw.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

using torch::Tensor;

struct Layer {
    std::vector<int64_t> shape;
    Tensor param, grad, m, v;
};

struct Step {
    double lr, beta1, beta2, eps, weight_decay;
    int64_t t;
    std::vector<Layer> layers;
};

/* --- The optimizer --- */

/* One step of all layers, in place. The new t is in their states, and the same in all of them. */
template <class Optimizer, class Options, class State>
static int64_t take(const Step &asked)
{
    std::vector<Tensor> params;
    for (const Layer &layer : asked.layers) params.push_back(layer.param);
    Optimizer optimizer(params, Options(asked.lr)
                                    .betas({asked.beta1, asked.beta2})
                                    .eps(asked.eps)
                                    .weight_decay(asked.weight_decay));
    std::vector<State *> states;
    for (const Layer &layer : asked.layers) {
        layer.param.mutable_grad() = layer.grad;
        auto state = std::make_unique<State>();
        state->step(asked.t).exp_avg(layer.m).exp_avg_sq(layer.v);
        states.push_back(state.get());
        optimizer.state()[layer.param.unsafeGetTensorImpl()] = std::move(state);
    }
    optimizer.step();
    return states[0]->step();
}

/* --- Reading: the kit writes compact lines with keys in the order of its documentation. --- */

/* The text after the next such key. */
static const char *find(const char *from, const std::string &key)
{
    const char *found = std::strstr(from, ("\"" + key + "\":").c_str());
    if (!found) throw std::runtime_error("no \"" + key + "\" in the request");
    return found + key.size() + 3;
}

/* Numbers are strings, in C99's hexadecimal. A hyperparameter that is none is null. */
static double number(const char *from) { return *from == '"' ? std::strtod(from + 1, nullptr) : NAN; }

static std::vector<int64_t> counts(const char *from)
{
    std::vector<int64_t> found;
    char *end = const_cast<char *>(from) + 1;
    for (; *end != ']'; end += *end == ',') found.push_back(std::strtoll(end, &end, 10));
    return found;
}

/* A flat array with this shape, in a dtype in which its numbers are exact. */
static Tensor tensor(const char *from, const std::vector<int64_t> &shape, torch::Dtype dtype)
{
    std::vector<double> found;
    for (char *end; from[1] == '"'; from = end + 1) found.push_back(std::strtod(from + 2, &end));
    return torch::tensor(found, torch::kFloat64).reshape(shape).to(dtype);
}

static Step read(const char *line)
{
    static const std::map<std::string, torch::Dtype> dtypes = {{"float64", torch::kFloat64},
                                                              {"float32", torch::kFloat32},
                                                              {"float16", torch::kFloat16},
                                                              {"bfloat16", torch::kBFloat16}};
    const char *name = find(line, "dtype") + 1;
    const torch::Dtype dtype = dtypes.at(std::string(name, std::strchr(name, '"')));
    Step step;
    step.lr = number(find(line, "lr"));
    step.beta1 = number(find(line, "beta1"));
    step.beta2 = number(find(line, "beta2"));
    step.eps = number(find(line, "eps"));
    step.weight_decay = number(find(line, "weight_decay"));
    step.t = std::strtoll(find(line, "t"), nullptr, 10);
    for (const char *p = line; (p = std::strstr(p, "\"shape\":")); p++) {
        const std::vector<int64_t> shape = counts(find(p, "shape"));
        const auto read_tensor = [&](const char *key) { return tensor(find(p, key), shape, dtype); };
        step.layers.push_back({shape, read_tensor("param"), read_tensor("grad"), read_tensor("m"), read_tensor("v")});
    }
    return step;
}

/* --- Writing --- */

static void print(const char *key, const Tensor &x)
{
    const Tensor wide = x.to(torch::kFloat64).contiguous();
    const double *numbers = wide.const_data_ptr<double>();
    std::printf("\"%s\":[", key);
    for (int64_t i = 0; i < wide.numel(); i++) /* "%a" would show a NaN's sign */
        std::printf(std::isnan(numbers[i]) ? "%s\"nan\"" : "%s\"%a\"", i ? "," : "", numbers[i]);
    std::printf("]");
}

static void print_layers(const Step &step, int64_t t, long seq)
{
    std::printf("{\"seq\":%ld,\"t\":%lld,\"layers\":[", seq, static_cast<long long>(t));
    const char *before = "{";
    for (const Layer &layer : step.layers) {
        std::printf("%s", before);
        print("param", layer.param);
        std::printf(",");
        print("m", layer.m);
        std::printf(",");
        print("v", layer.v);
        before = "},{";
    }
    std::printf("}]}\n");
}

/* The first line of torch's message, which goes on with a stack trace. */
static std::string escaped(const char *message)
{
    std::string text;
    for (; *message && *message != '\n'; message++) {
        if (*message == '"' || *message == '\\') text += '\\';
        text += *message;
    }
    return text;
}

/* --- The protocol --- */

int main(int count, char **arguments)
{
    const std::string kind = count == 2 ? arguments[1] : "";
    if (kind != "adam" && kind != "adamw") {
        std::cerr << "torch_adam: the argument must be adam or adamw, got '" << kind << "'\n";
        return 2;
    }
    const bool decoupled = kind == "adamw";
    torch::set_num_threads(1);
    for (std::string line; std::getline(std::cin, line) && line.find("\"cmd\":\"stop\"") == line.npos;) {
        if (line.find("\"cmd\":\"start\"") != line.npos) {
            std::printf("{\"protocol\":1,\"name\":\"libtorch-%s\","
                        "\"dtypes\":[\"float64\",\"float32\",\"bfloat16\",\"float16\"],"
                        "\"options\":[\"%s\",\"empty\",\"many\"],"
                        "\"fixed\":{\"cos_power\":0,\"tau\":0,\"eps_inside_sqrt\":false,"
                        "\"decoupled_weight_decay\":%s},"
                        "\"corrections\":\"cancelling\",\"moments\":\"parameter\",\"arithmetic\":\"parameter\"}\n",
                        kind.c_str(), decoupled ? "decoupled_weight_decay" : "weight_decay",
                        decoupled ? "true" : "false");
        } else {
            const long seq = std::strtol(find(line.c_str(), "seq"), nullptr, 10);
            try {
                using namespace torch::optim;
                const Step step = read(line.c_str());
                const int64_t t = decoupled ? take<AdamW, AdamWOptions, AdamWParamState>(step)
                                            : take<Adam, AdamOptions, AdamParamState>(step);
                print_layers(step, t, seq);
            } catch (const std::exception &error) {
                std::printf("{\"seq\":%ld,\"error\":{\"kind\":\"c10::Error\",\"message\":\"%s\"}}\n", seq,
                            escaped(error.what()).c_str());
            }
        }
        std::fflush(stdout);
    }
    return 0;
}
