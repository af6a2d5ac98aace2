"""A convolutional network on images made here: the same bits on any number of ranks.

python cnn.py                      # serially
dmlf run --nproc 2 cnn.py          # two ranks; three, four, ... too: the same hash
"""

from __future__ import annotations

import hashlib
from contextlib import nullcontext

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import dmlf

EPOCHS, GLOBAL_BATCH, SHARDS = 3, 64, 8


def bars(count: int) -> TensorDataset:
    """Noisy images [count, 1, 16, 16] of a bar: horizontal, vertical or diagonal."""
    generator = torch.Generator().manual_seed(7)
    targets = torch.randint(3, (count,), generator=generator)
    images = 0.3 * torch.randn(count, 1, 16, 16, generator=generator)
    places = torch.randint(3, 13, (count,), generator=generator)
    for image, target, place in zip(images, targets.tolist(), places.tolist(), strict=True):
        if target == 0:
            image[0, place, :] += 1.0
        elif target == 1:
            image[0, :, place] += 1.0
        else:
            image[0].diagonal(place - 8).add_(1.0)
    return TensorDataset(images, targets)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.GroupNorm(2, 8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(256, 3),
    )


def main() -> None:
    torch.set_num_threads(1)
    dmlf.init()
    dataset, test = bars(768), bars(256)
    model = dmlf.DistributedDataParallel(network(), reduction="exact", gradient_op="sum")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.003)
    sampler = dmlf.ShardedBatchSampler(dataset, GLOBAL_BATCH, SHARDS)
    loader = DataLoader(dataset, batch_sampler=sampler)
    for epoch in range(EPOCHS):
        sampler.set_epoch(epoch)
        for index, (images, targets) in enumerate(loader):
            ends = sampler.ends_step(index)
            with nullcontext() if ends else model.no_sync():
                loss = cross_entropy(model(images), targets, reduction="sum")
                (loss / GLOBAL_BATCH).backward()
            if ends:
                optimizer.step()
                optimizer.zero_grad()
    if dmlf.rank() == 0:
        images, targets = test.tensors
        accuracy = (model(images).argmax(dim=1) == targets).float().mean().item()
        digest = hashlib.sha256()
        for value in model.state_dict().values():
            digest.update(value.numpy().tobytes())
        print(f"accuracy {accuracy:.3f}, state {digest.hexdigest()[:16]}")


if __name__ == "__main__":
    main()
