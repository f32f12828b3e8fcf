/* The Adam of PyTorch's C++ frontend takes complex parameters, and steps in a wrong direction.
 *
 * It adds up g², and not |g|² or the squares of both parts: for g = i that is -1, and θ moves by -η along the real
 * axis, where the gradient is 0. Python's torch.optim.Adam takes complex numbers as pairs, and moves by -η i. The program
 * around it does not claim complex numbers, as nothing documents them.
 *
 * In float16, the default ε = 1e-8 is 0, and a gradient of zero gives 0/0 = NaN, as in Python.
 * It is built as ../torch_adam.cpp.
 */

#include <torch/optim/adam.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <cstdio>

using torch::Tensor;

static Tensor first_step(const Tensor &gradient)
{
    Tensor theta = torch::zeros_like(gradient);
    theta.mutable_grad() = gradient;
    torch::optim::Adam(std::vector<Tensor>{theta}, torch::optim::AdamOptions(1e-3)).step();
    return theta;
}

int main()
{
    const auto theta = first_step(torch::full(1, c10::complex<double>(0, 1), torch::kComplexDouble))[0]
                           .item<c10::complex<double>>();
    std::printf("complex128, g = i: theta goes from 0 to %g + %g i\n", theta.real(), theta.imag());
    std::printf("float16, g = 0: theta goes from 0 to %g\n",
                first_step(torch::zeros(1, torch::kFloat16))[0].item<double>());
}
