"""Protocols as pure generators: standard library only, no sockets, processes, clocks or tensors."""

from dmlf.protocol import algorithms as algorithms
from dmlf.protocol.accumulator import Accumulator
from dmlf.protocol.agree import agree, confirm_equal
from dmlf.protocol.algorithm import (
    Algorithm,
    BucketShape,
    Fold,
    Traffic,
    all_reduce_algorithm,
    local_step,
    register,
    registry,
)
from dmlf.protocol.chunks import chunk_slices
from dmlf.protocol.collectives import (
    agree_on_call,
    all_gather,
    broadcast,
    exchange,
    gather,
    leave,
    reduce_scatter,
    scatter,
    why_left,
)
from dmlf.protocol.effects import (
    Apply,
    Effect,
    Gradient,
    Member,
    ReadParameters,
    Recv,
    Send,
    Steps,
    WriteParameters,
    receive,
)
from dmlf.protocol.ownership import owned_buckets, owner
from dmlf.protocol.state_transfer import (
    Holding,
    Kind,
    Move,
    agree_holdings,
    moves_to_all,
    newest_sources,
    transfer,
)
from dmlf.protocol.tags import Message, Phase, Tag, validate

__all__ = [
    "Accumulator",
    "Algorithm",
    "Apply",
    "BucketShape",
    "Effect",
    "Fold",
    "Gradient",
    "Holding",
    "Kind",
    "Member",
    "Message",
    "Move",
    "Phase",
    "ReadParameters",
    "Recv",
    "Send",
    "Steps",
    "Tag",
    "Traffic",
    "WriteParameters",
    "agree",
    "agree_holdings",
    "agree_on_call",
    "all_gather",
    "all_reduce_algorithm",
    "broadcast",
    "chunk_slices",
    "confirm_equal",
    "exchange",
    "gather",
    "leave",
    "local_step",
    "moves_to_all",
    "newest_sources",
    "owned_buckets",
    "owner",
    "receive",
    "reduce_scatter",
    "register",
    "registry",
    "scatter",
    "transfer",
    "validate",
    "why_left",
]
