"""Transports: how a message gets from one rank to another."""

from __future__ import annotations

from dmlf.transport.base import Endpoint, Transport, allocate_plain
from dmlf.transport.registry import TRANSPORTS, register_transport

__all__ = ["TRANSPORTS", "Endpoint", "Transport", "allocate_plain", "register_transport"]
