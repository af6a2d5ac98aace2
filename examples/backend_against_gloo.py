"""Stock DDP over backend `dmlf` beside stock DDP over Gloo, in turns, in the same processes.

    python examples/backend_against_gloo.py --world-size 2 --samples-per-rank 64 256

One model per backend, MLP 784-512-512-10 with SGD. Rounds of steps alternate between the two; a
round takes as long as its slowest rank. Prints samples per second of all ranks together, medians,
and their ratio, round by round: median and range. Needs an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

import dmlf
import dmlf.torch

BACKENDS = ("dmlf", "gloo")
WARM_UP_STEPS = 20


def run_rank(samples: int, rounds: int, steps: int) -> dict[str, list[float]]:
    """Seconds of every round over each backend."""
    dist.init_process_group("dmlf")
    groups = {"dmlf": dist.group.WORLD, "gloo": dist.new_group(backend="gloo")}
    trainers = {name: trainer(groups[name], samples) for name in BACKENDS}
    seconds: dict[str, list[float]] = {name: [] for name in BACKENDS}
    for name in BACKENDS:
        trainers[name](WARM_UP_STEPS)
    for index in range(rounds):
        for name in BACKENDS if index % 2 else BACKENDS[::-1]:
            dist.barrier()
            start = time.monotonic()
            trainers[name](steps)
            spent = torch.tensor(time.monotonic() - start, dtype=torch.float64)
            dist.all_reduce(spent, dist.ReduceOp.MAX)
            seconds[name].append(spent.item())
    dist.destroy_process_group()
    return seconds


def trainer(group: dist.ProcessGroup | None, samples: int) -> Callable[[int], None]:
    """A function that trains a model of its own for a number of steps."""
    torch.manual_seed(0)
    layers: list[torch.nn.Module] = []
    for inputs, outputs in itertools.pairwise((784, 512, 512, 10)):
        layers += [torch.nn.Linear(inputs, outputs), torch.nn.ReLU()]
    model = DistributedDataParallel(torch.nn.Sequential(*layers[:-1]), process_group=group)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(dist.get_rank())
    images = torch.randn(samples, 784, generator=generator)
    labels = torch.randint(10, (samples,), generator=generator)

    def train(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            cross_entropy(model(images), labels).backward()
            optimizer.step()

    return train


def main() -> None:
    parser = argparse.ArgumentParser(description="stock DDP over dmlf and over Gloo, in turns")
    parser.add_argument("--world-size", type=int, default=2)
    parser.add_argument("--samples-per-rank", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--steps", type=int, default=100, help="of a round")
    flags = parser.parse_args()
    print("samples/rank   dmlf samples/s   Gloo samples/s   ratio: median (range)")
    for samples in flags.samples_per_rank:
        arguments = (samples, flags.rounds, flags.steps)
        seconds = dmlf.launch(run_rank, flags.world_size, arguments)[0]
        ratios = [gloo / own for own, gloo in zip(seconds["dmlf"], seconds["gloo"], strict=True)]
        total = flags.world_size * samples * flags.steps
        own, gloo = (total / statistics.median(seconds[name]) for name in BACKENDS)
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"{samples:12d} {own:16,.0f} {gloo:16,.0f}   {spread}", flush=True)


if __name__ == "__main__":
    main()
