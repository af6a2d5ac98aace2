"""Backend `dmlf` of torch.distributed: what every rank gets, also when something is wrong."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch

import dmlf
from dmlf.runtime import process_context
from tests.torch import backend_programs as programs

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
COMPLEX = (torch.complex64,)
WHOLE = (torch.int64, torch.int32, torch.uint8, torch.bool)


@pytest.mark.parametrize("op", ["SUM", "AVG", "PRODUCT", "MIN", "MAX"])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_reductions_add_in_the_order_of_ranks(op: str, world_size: int) -> None:
    dmlf.launch(programs.reductions, world_size, (op, FLOATS))


@pytest.mark.parametrize("op", ["SUM", "PRODUCT", "MIN", "MAX", "BAND", "BOR", "BXOR"])
def test_reductions_of_whole_numbers(op: str) -> None:
    dmlf.launch(programs.reductions, 3, (op, WHOLE))


def test_sums_of_complex_numbers() -> None:
    dmlf.launch(programs.reductions, 3, ("SUM", COMPLEX))


@pytest.mark.parametrize("transport", ["shm", "tcp"])
@pytest.mark.parametrize("world_size", [2, 3])
def test_copies_arrive_where_they_belong(transport: str, world_size: int) -> None:
    dtypes = (torch.float32, torch.bfloat16, torch.float8_e5m2, torch.bool, torch.complex128)
    dmlf.launch(programs.copies, world_size, (transport, dtypes))


def test_coalesced_calls_and_objects() -> None:
    dmlf.launch(programs.coalesced, 3)


@pytest.mark.parametrize("transport", ["shm", "tcp"])
def test_messages_are_matched_by_source_and_tag(transport: str) -> None:
    dmlf.launch(programs.messages, 3, (transport,))


def test_asynchronous_calls_may_be_begun_in_any_order_of_groups() -> None:
    dmlf.launch(programs.opposite_orders, 3)


def test_ranks_that_differ_are_all_told_and_go_on() -> None:
    told = dmlf.launch(programs.different_calls, 3)
    assert [len(each) for each in told] == [7, 7, 7]
    assert "rank 0 called all_reduce(SUM, float32[3])" in told[0][0]
    assert "all_reduce(SUM, int32[3])" in told[0][1]
    assert "all_reduce(MAX, float32[3])" in told[0][2]
    assert "rank 1 called all_reduce(SUM, float32[10]), but rank 0 called barrier()" in told[1][6]


@pytest.mark.parametrize(("transport", "error"), [("shm", "DeadlineExceeded"), ("tcp", "PeerLost")])
def test_a_killed_rank_is_a_typed_error_in_backward(
    transport: str, error: str, tmp_path: Path
) -> None:
    context = process_context(["tests.torch.backend_programs"], threads_per_rank=1)
    told, tells = context.Pipe(duplex=False)
    arguments = (str(tmp_path / "meeting"), transport, tells)
    ranks = [
        context.Process(target=programs.lost_rank, args=(rank, *arguments)) for rank in range(2)
    ]
    for rank in ranks:
        rank.start()
    tells.close()
    for rank in ranks:
        rank.join()
    assert [rank.exitcode for rank in ranks] == [0, -signal.SIGKILL]
    assert told.recv() == error
    told.close()


def test_a_rank_that_left_is_named() -> None:
    told, _ = dmlf.launch(programs.rank_that_left, 2)
    assert "rank 1" in told


def test_an_aborted_group_ends_what_is_outstanding() -> None:
    assert dmlf.launch(programs.aborted, 2) == ["CollectiveAborted", ""]


def test_ddp_gives_the_same_bits_however_it_lays_out_its_buckets() -> None:
    variants = [
        {"bucket_cap_mb": cap, "static_graph": static, "gradient_as_bucket_view": view}
        for cap, static, view in [
            (25, False, False),
            (25, True, True),
            (0.002, False, True),
            (0.002, True, False),
            (0.009, False, False),
            (0.013, True, False),
        ]
    ]
    variants.append({"find_unused_parameters": True, "bucket_cap_mb": 0.005})
    per_rank = dmlf.launch(programs.ddp_bits, 3, ("shm", variants, 4))
    per_rank += dmlf.launch(programs.ddp_bits, 3, ("tcp", variants[:3], 4))
    assert {digest for digests in per_rank for digest in digests} == {per_rank[0][0]}


def test_sharded_forms_train_as_ddp_does() -> None:
    for distances in dmlf.launch(programs.sharded_training, 2):
        assert all(distance < 1e-5 for distance in distances.values()), distances


def test_a_destroyed_group_leaves_nothing(tmp_path: Path) -> None:
    dmlf.launch(programs.nothing_is_left, 2, (str(tmp_path / "meeting"),))


def test_a_receive_from_anybody_outlives_one_that_left() -> None:
    assert dmlf.launch(programs.answer_of_one_that_stays, 3)[0] == 7.0


def test_misuse_gets_one_line() -> None:
    for told in dmlf.launch(programs.refused, 2):
        assert len(told) == 8
        assert told[0] == (
            "op: 'AVG' is not allowed; expected SUM, PRODUCT, MIN, MAX, BAND, BOR, BXOR "
            "for tensors of torch.int32"
        )
        assert told[7].startswith(
            "pg_options: 'tcp' is not allowed; expected dmlf.torch.BackendOptions"
        )
