"""Log SET-Adam's statistics of each layer with TensorBoard: γ, min w, and the spread of 1/w̃.

python examples/torch_tensorboard.py --logdir runs/setadam
tensorboard --logdir runs/setadam
"""

import argparse

import torch
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from setadam_torch import SETAdam


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--logdir", default="runs/setadam")
    parser.add_argument("--steps", type=int, default=200)
    args = parser.parse_args()

    torch.manual_seed(0)
    x = torch.linspace(-3, 3, 256)[:, None]
    y = torch.sin(2 * x)
    model = nn.Sequential(nn.Linear(1, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))
    optimizer = SETAdam(model.named_parameters(), lr=1e-2)
    with SummaryWriter(args.logdir) as writer:
        for i in range(args.steps):
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()
            if i % 10 == 0:
                writer.add_scalar("loss", loss.item(), i)
                for name, statistics in optimizer.layer_statistics().items():
                    for statistic, value in statistics.items():
                        writer.add_scalar(f"{statistic}/{name}", value, i)
    print(f"loss {loss.item():.4f}; written to {args.logdir}")


if __name__ == "__main__":
    main()
