"""Projection beyond the machine: what a model would reach on hosts and networks of one's choice."""

from dmlf.benchmark.projection.document import (
    Projection,
    make_projection,
    read_projection,
    write_projection,
)
from dmlf.benchmark.projection.rows import Contestant, Request, Row, contestants, project
from dmlf.benchmark.projection.sensitivity import Sensitivity, sensitivities

__all__ = [
    "Contestant",
    "Projection",
    "Request",
    "Row",
    "Sensitivity",
    "contestants",
    "make_projection",
    "project",
    "read_projection",
    "sensitivities",
    "write_projection",
]
