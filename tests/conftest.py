"""What every test promises: no process, descriptor or shared memory is left behind."""

from __future__ import annotations

from dmlf.conformance.leftovers import nothing_left_behind as nothing_left_behind
from dmlf.conformance.leftovers import warm_fork_server as warm_fork_server
