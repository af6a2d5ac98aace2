"""A script for stock DDP, as it is written for Gloo; two lines make it run over dmlf.

torchrun --nproc-per-node 2 examples/ddp_over_dmlf.py
dmlf run --nproc 2 examples/ddp_over_dmlf.py
"""

from __future__ import annotations

import hashlib

import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import dmlf.torch  # noqa: F401  registers the backend: the first line


def main() -> None:
    dist.init_process_group("dmlf")  # the second line
    images = torch.randn(2048, 64, generator=torch.Generator().manual_seed(0))
    data = TensorDataset(images, images[:, :10].argmax(1))
    sampler: DistributedSampler[TensorDataset] = DistributedSampler(data, seed=0)
    loader = DataLoader(data, batch_size=64, sampler=sampler)

    torch.manual_seed(0)
    layers = (torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
    model = DistributedDataParallel(torch.nn.Sequential(*layers))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        for inputs, labels in loader:
            optimizer.zero_grad()
            cross_entropy(model(inputs), labels).backward()
            optimizer.step()
        correct = (model(images).argmax(1) == data.tensors[1]).float().mean()
        if dist.get_rank() == 0:
            print(f"epoch {epoch}: accuracy {correct:.3f}")

    digest = hashlib.sha256()
    for parameter in model.parameters():
        digest.update(parameter.detach().numpy().tobytes())
    digests: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(digests, digest.hexdigest())
    if dist.get_rank() == 0:
        print(f"parameters {digests[0][:16]}, the same on all ranks: {len(set(digests)) == 1}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
