"""Running protocols in real processes: the driver and the supervision of ranks."""

from dmlf.runtime.conversation import Conversation, converse
from dmlf.runtime.driver import Driver, Local, NoTransport
from dmlf.runtime.launch import process_context, run_ranks

__all__ = [
    "Conversation",
    "Driver",
    "Local",
    "NoTransport",
    "converse",
    "process_context",
    "run_ranks",
]
