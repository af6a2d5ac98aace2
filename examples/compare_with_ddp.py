"""The same model under stock DDP (Gloo) and under dmlf, in turns, in the same two processes.

    python examples/compare_with_ddp.py --batch-sizes 64 256

Prints samples per second of both and their ratio, median and range over the rounds.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time

import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy

import dmlf

STEPS, ROUNDS = 60, 9


def mlp() -> torch.nn.Module:
    torch.manual_seed(0)
    sizes, layers = [784, 512, 512, 10], []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [torch.nn.Linear(inputs, outputs), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


def compare(batch_size: int) -> dict[str, list[float]]:
    """Seconds per step of both contestants, one value a round; the slowest rank counts."""
    torch.set_num_threads(1)
    group = dmlf.init()
    dist.init_process_group("gloo")
    torch.manual_seed(group.rank)
    inputs = torch.randn(batch_size, 784)
    targets = torch.randint(10, (batch_size,))
    models = {
        "ddp": torch.nn.parallel.DistributedDataParallel(mlp()),
        "dmlf": dmlf.DistributedDataParallel(mlp()),
    }
    optimizers = {
        name: torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        for name, model in models.items()
    }

    def steps(name: str, count: int) -> float:
        model, optimizer = models[name], optimizers[name]
        group.barrier()
        start = time.perf_counter()
        for _ in range(count):
            optimizer.zero_grad()
            cross_entropy(model(inputs), targets).backward()
            optimizer.step()
        spent = torch.tensor([time.perf_counter() - start], dtype=torch.float64)
        return float(dmlf.all_reduce(spent, "max")) / count

    for name in models:
        steps(name, 20)
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for round_ in range(ROUNDS):
        for name in list(models)[:: 1 if round_ % 2 else -1]:
            seconds[name].append(steps(name, STEPS))
    dist.destroy_process_group()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--world-size", type=int, default=2)
    arguments = parser.parse_args()
    for batch_size in arguments.batch_sizes:
        seconds = dmlf.launch(compare, arguments.world_size, (batch_size,))[0]
        ratios = [a / b for a, b in zip(seconds["ddp"], seconds["dmlf"], strict=True)]
        speed = {
            name: arguments.world_size * batch_size / statistics.median(values)
            for name, values in seconds.items()
        }
        print(
            f"batch {batch_size} per rank, {arguments.world_size} ranks: "
            f"DDP {speed['ddp']:,.0f} samples/s, dmlf {speed['dmlf']:,.0f}; "
            f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
