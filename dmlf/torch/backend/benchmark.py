"""Stock DDP over backend `dmlf` beside stock DDP over Gloo, in turns, in the same processes.

    python -m dmlf.torch.backend.benchmark --world-size 2 --samples-per-rank 64 256

One model per backend, MLP 784-512-512-10 with SGD; rounds of steps alternate between the two, and
the slowest rank's time of a round counts. Needs an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from dmlf.group import launch
from dmlf.runtime.measuring_lock import measuring_lock

BACKENDS = ("dmlf", "gloo")
_WARM_UP_STEPS = 20


@dataclass(frozen=True, slots=True)
class Rounds:
    """Seconds of each round of `steps` steps, by backend, of the slowest rank."""

    world_size: int
    samples_per_rank: int
    steps: int
    seconds: dict[str, list[float]]

    def samples_per_s(self, backend: str) -> float:
        """The median over the rounds, of all ranks together."""
        samples = self.world_size * self.samples_per_rank * self.steps
        return samples / statistics.median(self.seconds[backend])

    def ratios(self) -> list[float]:
        """How many times as fast dmlf was as Gloo, in each pair of rounds, ascending."""
        pairs = zip(self.seconds["dmlf"], self.seconds["gloo"], strict=True)
        return sorted(gloo / dmlf for dmlf, gloo in pairs)


def measure(world_size: int, samples_per_rank: int, rounds: int = 11, steps: int = 100) -> Rounds:
    """Train `rounds` rounds of `steps` steps over each backend, in turns, on this host."""
    arguments = (world_size, samples_per_rank, rounds, steps)
    with measuring_lock():
        per_rank = launch(run_rank, world_size, arguments)
    seconds = {
        backend: [max(times) for times in zip(*(each[backend] for each in per_rank), strict=True)]
        for backend in BACKENDS
    }
    return Rounds(world_size, samples_per_rank, steps, seconds)


def run_rank(
    world_size: int, samples_per_rank: int, rounds: int, steps: int
) -> dict[str, list[float]]:
    """One rank's seconds of every round."""
    import dmlf.torch  # noqa: F401

    dist.init_process_group("dmlf")
    try:
        groups = {"dmlf": dist.group.WORLD, "gloo": dist.new_group(backend="gloo")}
        trainers = {name: _trainer(group, samples_per_rank) for name, group in groups.items()}
        seconds: dict[str, list[float]] = {name: [] for name in BACKENDS}
        for name in BACKENDS:
            trainers[name](_WARM_UP_STEPS)
        for index in range(rounds):
            for name in BACKENDS if index % 2 else reversed(BACKENDS):
                dist.barrier()
                start = time.monotonic()
                trainers[name](steps)
                seconds[name].append(time.monotonic() - start)
        return seconds
    finally:
        dist.destroy_process_group()


def _trainer(group: dist.ProcessGroup | None, samples: int) -> Callable[[int], None]:
    """A function that trains a model of its own for a number of steps."""
    torch.manual_seed(0)
    widths = (784, 512, 512, 10)
    layers: list[torch.nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [torch.nn.Linear(inputs, outputs), torch.nn.ReLU()]
    model = DistributedDataParallel(torch.nn.Sequential(*layers[:-1]), process_group=group)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(dist.get_rank())
    images = torch.randn(samples, widths[0], generator=generator)
    labels = torch.randint(widths[-1], (samples,), generator=generator)

    def train(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(images), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    return train


def main(arguments: list[str] | None = None) -> None:
    """Print one line per number of samples."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--world-size", type=int, default=2)
    parser.add_argument("--samples-per-rank", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--steps", type=int, default=100, help="steps of a round")
    flags = parser.parse_args(arguments)
    print("samples/rank   dmlf samples/s   gloo samples/s   ratio: median (min to max)")
    for samples in flags.samples_per_rank:
        result = measure(flags.world_size, samples, flags.rounds, flags.steps)
        ratios = result.ratios()
        print(
            f"{samples:12d} {result.samples_per_s('dmlf'):16,.0f} "
            f"{result.samples_per_s('gloo'):16,.0f}   "
            f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
