"""Which server owns which bucket: round robin, known to workers and servers alike.

Buckets are capped in bytes and taken in the order in which backward completes them, so that turns
spread both the bytes and the work of one backward pass. A pure function of numbers that every rank
has: nothing about ownership is ever sent.
"""

from __future__ import annotations


def owner(bucket: int, num_servers: int) -> int:
    """The server, counted from 0, that owns `bucket`."""
    return bucket % num_servers


def owned_buckets(server: int, num_buckets: int, num_servers: int) -> range:
    """The buckets of one server, ascending; none where servers outnumber the buckets."""
    return range(server, num_buckets, num_servers)
