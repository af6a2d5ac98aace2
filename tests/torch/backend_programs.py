"""Functions that ranks run over backend `dmlf`, imported by name in their processes."""

from __future__ import annotations

import hashlib
import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import dmlf.torch
from dmlf.errors import (
    CollectiveAborted,
    CollectiveMismatch,
    ConfigError,
    GroupClosed,
    NoAnswer,
    PeerLost,
    SchemaMismatch,
    TransportError,
)


@contextmanager
def group(
    transport: str | None = None, timeout_s: float = 30.0, store: Any = None
) -> Iterator[tuple[int, int]]:
    """The default group over `dmlf`: (rank, world size). store: where its ranks meet."""
    options = dmlf.torch.BackendOptions(transport=transport)
    timeout = timedelta(seconds=timeout_s)
    place = {}
    if store is not None:
        place = {"rank": int(os.environ["RANK"]), "world_size": int(os.environ["WORLD_SIZE"])}
    dist.init_process_group("dmlf", pg_options=options, timeout=timeout, store=store, **place)
    try:
        yield dist.get_rank(), dist.get_world_size()
    finally:
        dist.destroy_process_group()


def block(rank: int, numel: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Values that depend on rank and index, of many magnitudes."""
    generator = torch.Generator().manual_seed(1000 * rank + numel)
    if dtype is torch.bool:
        return torch.rand(numel, generator=generator) < 0.5
    if not dtype.is_floating_point and not dtype.is_complex:
        return torch.randint(0, 100, (numel,), generator=generator).to(dtype)
    values = torch.randn(numel, generator=generator, dtype=torch.float64)
    values *= 10.0 ** torch.randint(-2, 3, (numel,), generator=generator)
    if dtype.is_complex:
        return torch.complex(values, values.flip(0)).to(dtype)
    return values.to(dtype)


FOLDS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "SUM": torch.add,
    "AVG": torch.add,
    "PRODUCT": torch.mul,
    "MIN": torch.minimum,
    "MAX": torch.maximum,
    "BAND": torch.bitwise_and,
    "BOR": torch.bitwise_or,
    "BXOR": torch.bitwise_xor,
}


def expected(op: str, blocks: list[torch.Tensor]) -> torch.Tensor:
    """The blocks combined in the order of ranks by torch itself; 16 bits in float32."""
    dtype = blocks[0].dtype
    wide = torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
    total = blocks[0].to(wide)
    for other in blocks[1:]:
        total = FOLDS[op](total, other.to(wide))
    if op == "AVG":
        total = total / len(blocks)
    return total.to(dtype)


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors hold the same bits."""
    alike = one.dtype == other.dtype and one.shape == other.shape
    return alike and _bytes(one) == _bytes(other)


def _bytes(tensor: torch.Tensor) -> bytes:
    plain = tensor.detach().contiguous().reshape(-1)
    return plain.view(torch.uint8).numpy().tobytes() if plain.numel() else b""


def reductions(op: str, dtypes: Sequence[torch.dtype]) -> None:
    reduce_op = getattr(dist.ReduceOp, op)
    with group() as (rank, size):
        numels = (0, 1, size - 1, size, size + 1, 17, 4099)
        for dtype, numel in itertools.product(dtypes, numels):
            blocks = [block(each, numel, dtype) for each in range(size)]
            want = expected(op, blocks)
            value = blocks[rank].clone()
            dist.all_reduce(value, reduce_op)
            assert same(value, want), (numel, "all_reduce")
            for root in range(size):
                value = blocks[rank].clone()
                dist.reduce(value, root, reduce_op)
                assert same(value, want if rank == root else blocks[rank]), (numel, "reduce")
            rows = [
                [block(10 * each + dst, numel, dtype) for dst in range(size)]
                for each in range(size)
            ]
            out = torch.empty(numel, dtype=dtype)
            dist.reduce_scatter(out, rows[rank], reduce_op)
            assert same(out, expected(op, [row[rank] for row in rows])), (numel, "reduce_scatter")
            dist.reduce_scatter_single(out, torch.cat(rows[rank]), reduce_op)
            assert same(out, expected(op, [row[rank] for row in rows])), (numel, "tensor")
            whole = torch.cat(rows[rank])
            out = whole[rank * numel : (rank + 1) * numel]
            dist.reduce_scatter_single(out, whole, reduce_op)
            assert same(out, expected(op, [row[rank] for row in rows])), (numel, "in place")


def copies(transport: str, dtypes: Sequence[torch.dtype]) -> None:
    with group(transport) as (rank, size):
        for dtype, numel in itertools.product(dtypes, (0, 1, 5, 4099)):
            blocks = [block(each, numel, dtype) for each in range(size)]
            outs = [torch.empty(numel, dtype=dtype) for _ in range(size)]
            dist.all_gather(outs, blocks[rank])
            assert all(map(same, outs, blocks)), "all_gather"
            whole = torch.empty(size * numel, dtype=dtype)
            dist.all_gather_single(whole, blocks[rank])
            assert same(whole, torch.cat(blocks)), "all_gather_into_tensor"
            for root in range(size):
                value = blocks[rank].clone()
                dist.broadcast(value, root)
                assert same(value, blocks[root]), "broadcast"
                outs = [torch.empty(numel, dtype=dtype) for _ in range(size)]
                dist.gather(blocks[rank], outs if rank == root else None, root)
                assert rank != root or all(map(same, outs, blocks)), "gather"
                out = torch.empty(numel, dtype=dtype)
                dist.scatter(out, blocks if rank == root else None, root)
                assert same(out, blocks[rank]), "scatter"
            rows = [
                [block(10 * each + dst, numel, dtype) for dst in range(size)]
                for each in range(size)
            ]
            outs = [torch.empty(numel, dtype=dtype) for _ in range(size)]
            dist.all_to_all(outs, rows[rank])
            assert all(same(outs[src], rows[src][rank]) for src in range(size)), "all_to_all"
        # Columns of a matrix are not contiguous.
        matrix = torch.arange(12.0).reshape(4, 3) + rank
        dist.all_reduce(matrix[:, 1])
        assert matrix[:, 1].tolist() == [
            size * (1 + 3 * row) + sum(range(size)) for row in range(4)
        ]
        assert matrix[:, 0].tolist() == [3.0 * row + rank for row in range(4)]
        # Blocks of different sizes.
        outs = [torch.empty(each + 1) for each in range(size)]
        dist.all_gather(outs, torch.full((rank + 1,), float(rank)))
        assert [out.tolist() for out in outs] == [
            [float(each)] * (each + 1) for each in range(size)
        ]
        out = torch.empty(size * (rank + 1))
        sizes = [each + 1 for each in range(size)]
        dist.all_to_all_single(
            out, torch.full((sum(sizes),), float(rank)), [rank + 1] * size, sizes
        )
        assert out.tolist() == [float(src) for src in range(size) for _ in range(rank + 1)]


def coalesced() -> None:
    with group() as (rank, size):
        values = [block(rank, 7), block(rank, 3).reshape(3, 1)]
        wants = [expected("SUM", [block(each, numel) for each in range(size)]) for numel in (7, 3)]
        with dist.distributed_c10d._coalescing_manager():
            for value in values:
                dist.all_reduce(value)
        assert all(same(value.reshape(-1), want) for value, want in zip(values, wants, strict=True))
        outs = [torch.empty(size * 2), torch.empty(size * 4)]
        with dist.distributed_c10d._coalescing_manager():
            for out, numel in zip(outs, (2, 4), strict=True):
                dist.all_gather_single(out, block(rank, numel))
        for out, numel in zip(outs, (2, 4), strict=True):
            assert same(out, torch.cat([block(each, numel) for each in range(size)]))
        found: list[Any] = [None] * size
        dist.all_gather_object(found, {"rank": rank})
        assert found == [{"rank": each} for each in range(size)]


def messages(transport: str) -> None:
    large = 1 << 21
    with group(transport) as (rank, size):
        right, left = (rank + 1) % size, (rank - 1) % size
        # Everybody sends before anybody receives.
        dist.send(block(rank, large), right)
        value = torch.empty(large)
        dist.recv(value, left)
        assert same(value, block(left, large))
        # Asked for in another order than sent, by tag.
        for tag in range(5):
            dist.send(torch.full((3,), 10.0 * rank + tag), right, tag=tag)
        values = {tag: torch.empty(3) for tag in (3, 0, 4, 2, 1)}
        works = {tag: dist.irecv(value, left, tag=tag) for tag, value in values.items()}
        for tag in (2, 4, 1, 3, 0):
            works[tag].wait()
            assert values[tag].tolist() == [10.0 * left + tag] * 3
        # From anybody.
        if rank == 0:
            seen = set()
            for _ in range(size - 1):
                value = torch.empty(1, dtype=torch.bfloat16)
                src = dist.recv(value)
                assert value.item() == src
                seen.add(src)
            assert seen == set(range(1, size))
        else:
            dist.send(torch.tensor([rank], dtype=torch.bfloat16), 0)
        dist.barrier()
        sent, value = torch.full((4,), float(rank)), torch.empty(4)
        ops = [dist.P2POp(dist.irecv, value, left), dist.P2POp(dist.isend, sent, right)]
        for work in dist.batch_isend_irecv(ops):
            work.wait()
        assert value.tolist() == [float(left)] * 4
        # A message that does not fit.
        dist.send(torch.zeros(2), right)
        try:
            dist.recv(torch.empty(3), left)
        except SchemaMismatch:
            return
        raise AssertionError("a message of another size was taken")


def opposite_orders() -> None:
    """Two groups, and messages beside collectives, begun by every rank in another order."""
    with group() as (rank, size):
        others = [dist.new_group(timeout=timedelta(seconds=30)) for _ in range(2)]
        if rank % 2:
            others.reverse()
        value = [torch.full((1000,), float(rank)), torch.full((1000,), float(rank))]
        works = [
            dist.all_reduce(v, group=g, async_op=True) for v, g in zip(value, others, strict=True)
        ]
        for work in works:
            work.wait()
        assert value[0][0] == value[1][0] == sum(range(size))
        total, word = torch.ones(5), torch.empty(1)
        if rank == 0:
            work = dist.all_reduce(total, async_op=True)
            for dst in range(1, size):
                dist.send(torch.tensor([7.0]), dst)
            work.wait()
        else:
            dist.recv(word, 0)
            assert word.item() == 7.0
            dist.all_reduce(total)
        assert total.tolist() == [float(size)] * 5
        # Many at once, waited for from the last to the first.
        many = [torch.full((3,), float(index + rank)) for index in range(20)]
        works = [dist.all_reduce(each, async_op=True) for each in many]
        for work in reversed(works):
            work.wait()
        for index, each in enumerate(many):
            assert each[0] == size * index + sum(range(size))


def different_calls() -> list[str]:
    """What every rank is told of calls that differ, in turn; the group goes on after each."""
    told = []
    with group(timeout_s=20) as (rank, size):
        model = DistributedDataParallel(torch.nn.Linear(4, 2))
        calls: list[Callable[[], Any]] = [
            lambda: dist.all_reduce(torch.zeros(3 + rank)),
            lambda: dist.all_reduce(torch.zeros(3, dtype=(torch.float32, torch.int32)[rank > 0])),
            lambda: dist.all_reduce(
                torch.zeros(3), (dist.ReduceOp.SUM, dist.ReduceOp.MAX)[rank > 0]
            ),
            lambda: dist.broadcast(torch.zeros(3), 0 if rank else 1),
            lambda: dist.barrier() if rank else dist.all_reduce(torch.zeros(1)),
            lambda: dist.all_reduce(torch.zeros(3 + rank), async_op=True).wait(),
            lambda: model(torch.ones(1, 4)).sum().backward() if rank else dist.barrier(),
        ]
        for index, call in enumerate(calls):
            try:
                call()
            except CollectiveMismatch as error:
                told.append(str(error))
            else:
                raise AssertionError(f"rank {rank} was told nothing of call {index}")
            value = torch.ones(1)
            dist.all_reduce(value)
            assert value.item() == size
        future = dist.all_reduce(torch.zeros(3 + rank), async_op=True).get_future()
        with pytest.raises(RuntimeError, match="all ranks must make the same calls"):
            future.wait()
    return told


def lost_rank(rank: int, meeting: str, transport: str, told: Connection) -> None:
    """Rank 1 is killed in the middle; tells what rank 0 raises in DDP's backward, and after."""
    dist.init_process_group(
        "dmlf",
        init_method=f"file://{meeting}",
        rank=rank,
        world_size=2,
        pg_options=dmlf.torch.BackendOptions(transport=transport),
        timeout=timedelta(seconds=10),
    )
    model = DistributedDataParallel(torch.nn.Linear(4, 2))
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        model(torch.ones(1, 4)).sum().backward()
    except TransportError as error:
        with pytest.raises(GroupClosed):
            dist.barrier()
        dist.destroy_process_group()
        told.send(type(error).__name__)


def rank_that_left() -> str:
    """Rank 1 destroys its group; what rank 0 is told."""
    with group(timeout_s=60) as (rank, _size):
        model = DistributedDataParallel(torch.nn.Linear(4, 2))
        if rank == 1:
            return ""
        with pytest.raises(GroupClosed) as caught:
            model(torch.ones(1, 4)).sum().backward()
        return str(caught.value)


def answer_of_one_that_stays() -> float:
    """Rank 1 leaves; what rank 0, which then asks anybody, gets from rank 2."""
    with group("tcp", timeout_s=60) as (rank, _size):
        store = dist.distributed_c10d._get_default_store()
        value = torch.tensor([7.0])
        if rank == 2:
            store.wait(["lost"])
            dist.send(value, 0)
        elif rank == 0:
            with pytest.raises(PeerLost):
                dist.recv(value, 1)
            store.set("lost", "")
            value.zero_()
            assert dist.recv(value) == 2
        return float(value)


def aborted() -> str:
    """Rank 0 gives up an operation that nobody else will begin."""
    dist.init_process_group("dmlf", timeout=timedelta(hours=1))
    store = dist.distributed_c10d._get_default_store()
    if dist.get_rank():
        store.wait(["aborted"])
        store.set("seen", "")  # the store ends with rank 0
        dist.destroy_process_group()
        return ""
    work = dist.all_reduce(torch.ones(1), async_op=True)
    with pytest.raises(NoAnswer):
        work.wait(timedelta(milliseconds=1))
    dist.distributed_c10d._get_default_group().abort()
    store.set("aborted", "")
    with pytest.raises(CollectiveAborted) as caught:
        work.wait()
    assert work.exception() is caught.value
    store.wait(["seen"])
    return caught.typename


def ddp_bits(transport: str, variants: list[dict[str, Any]], steps: int) -> list[str]:
    """A hash of the parameters after training with each variant of DDP."""
    found = []
    with group(transport) as (rank, _size):
        for variant in variants:
            torch.manual_seed(0)
            model = torch.nn.Sequential(
                torch.nn.Linear(31, 67),
                torch.nn.ReLU(),
                torch.nn.Linear(67, 45),
                torch.nn.ReLU(),
                torch.nn.Linear(45, 23),
                torch.nn.ReLU(),
                torch.nn.Linear(23, 5),
            )
            trained = DistributedDataParallel(model, **variant)
            optimizer = torch.optim.SGD(trained.parameters(), lr=0.05, momentum=0.9)
            for step in range(steps):
                optimizer.zero_grad()
                inputs = block(100 * step + rank, 8 * 31).reshape(8, 31)
                trained(inputs).square().mean().backward()
                optimizer.step()
            digest = hashlib.sha256()
            for parameter in model.parameters():
                digest.update(_bytes(parameter))
            found.append(digest.hexdigest())
    return found


def nothing_is_left(meeting: str) -> None:
    """Descriptors, threads and mapped memory are as before a group that did everything.

    Its ranks meet in files: a store of torch's own ends with rank 0's first group, and a rank that
    is early for the second could still reach it.
    """

    def held() -> tuple[int, int, int]:
        maps = Path("/proc/self/maps").read_text()
        descriptors = len(os.listdir("/proc/self/fd"))
        return descriptors, threading.active_count(), maps.count("dmlf-shm")

    size = int(os.environ["WORLD_SIZE"])
    with group(store=dist.FileStore(f"{meeting}-1", size)):  # what torch itself keeps after that
        dist.barrier()
    before = held()
    with group(store=dist.FileStore(f"{meeting}-2", size)):
        dist.new_group([0, 1])
        dist.all_reduce(torch.ones(100_000), async_op=True).wait()
    assert held() == before


def refused() -> list[str]:
    """The line that each misuse gets."""
    told = []
    with group() as (_rank, size):
        calls: list[Callable[[], Any]] = [
            lambda: dist.all_reduce(torch.ones(2, dtype=torch.int32), dist.ReduceOp.AVG),
            lambda: dist.all_reduce(torch.ones(2), dist.ReduceOp.BAND),
            lambda: dist.all_reduce(torch.ones(2), dist._make_nccl_premul_sum(2.0)),
            lambda: dist.all_reduce(torch.ones(2).to_sparse(), dist.ReduceOp.MAX),
            lambda: dist.all_reduce(torch.ones(2, dtype=torch.float8_e5m2)),
            lambda: dist.all_gather([torch.ones(2)] * (size + 1), torch.ones(2)),
            lambda: dist.send(torch.ones(2), (dist.get_rank() + 1) % size, tag=-1),
            lambda: dist.new_group(pg_options="tcp"),
        ]
        for call in calls:
            try:
                call()
            except ConfigError as error:
                told.append(str(error))
        dist.barrier()
    return told


def sharded_training() -> dict[str, float]:
    """How far parameters trained by torch's sharded forms are from those that DDP has trained."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
    from torch.distributed.optim import ZeroRedundancyOptimizer

    def network() -> torch.nn.Module:
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 3))

    def train(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for step in range(3):
            optimizer.zero_grad()
            model(block(100 * step + rank, 20).reshape(4, 5)).square().mean().backward()
            optimizer.step()

    def adam(model: torch.nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters(), lr=0.01)

    def vector(module: torch.nn.Module) -> torch.Tensor:
        return torch.cat([parameter.detach().reshape(-1) for parameter in module.parameters()])

    with group() as (rank, size):
        plain = DistributedDataParallel(network())
        train(plain, adam(plain))
        zero = DistributedDataParallel(network())
        train(zero, ZeroRedundancyOptimizer(zero.parameters(), torch.optim.Adam, lr=0.01))
        flat = FullyShardedDataParallel(network(), device_id=torch.device("cpu"))
        train(flat, adam(flat))
        with FullyShardedDataParallel.summon_full_params(flat):
            whole = vector(flat).clone()
        sharded = network()
        fully_shard(sharded, mesh=init_device_mesh("cpu", (size,)))
        train(sharded, adam(sharded))
        gathered = [parameter.full_tensor().reshape(-1) for parameter in sharded.parameters()]
        expected = vector(plain)
        found = {"zero": vector(zero), "fsdp": whole, "fully_shard": torch.cat(gathered).detach()}
        return {name: float((each - expected).abs().max()) for name, each in found.items()}
