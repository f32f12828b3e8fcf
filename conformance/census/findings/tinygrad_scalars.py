"""tinygrad's Adam cannot update a parameter without axes.

The powers of β have the shape (1,), so the step of a parameter of shape () has it, too, and cannot be assigned.
"""

from tinygrad import Context, Tensor
from tinygrad.nn.optim import Adam

for shape in ((1,), ()):
    param = Tensor.zeros(*shape).contiguous().realize()
    param.grad = Tensor.ones(*shape)
    try:
        with Context(TRAINING=1):
            Adam([param]).step()
        print(f"shape {shape}: {param.numpy()}")
    except ValueError as error:
        print(f"shape {shape}: {error}")
