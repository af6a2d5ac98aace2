"""Running protocols in real processes: the driver and the supervision of ranks."""

from dmlf.runtime.driver import Driver, Local, NoTransport
from dmlf.runtime.launch import process_context, run_ranks

__all__ = ["Driver", "Local", "NoTransport", "process_context", "run_ranks"]
