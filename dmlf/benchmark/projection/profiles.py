"""Named links: what to assume of a network that was not measured.

Bandwidth is the line rate of a port. Latency is of one small message between two processes over
TCP through one switch, as such networks commonly show it; measure yours where it matters
(`docs/projection.md`). `loopback` is of Gloo over TCP on one two-core virtual machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dmlf.simulation.timed import Link


@dataclass(frozen=True, slots=True)
class Profile:
    """A link by its latency in seconds and its bandwidth in bits per second."""

    latency_s: float
    bandwidth_bits_per_s: float
    text: str

    @property
    def link(self) -> Link:
        """The same in bytes."""
        return Link(self.latency_s, self.bandwidth_bits_per_s / 8)


PROFILES: Mapping[str, Profile] = {
    "ethernet-1g": Profile(5e-5, 1e9, "1 Gbit/s Ethernet, TCP"),
    "ethernet-10g": Profile(3e-5, 10e9, "10 Gbit/s Ethernet, TCP"),
    "ethernet-25g": Profile(2e-5, 25e9, "25 Gbit/s Ethernet, TCP"),
    "ethernet-100g": Profile(1.5e-5, 100e9, "100 Gbit/s Ethernet, TCP"),
    "loopback": Profile(4e-4, 7e9, "TCP between processes of one host, through torch's Gloo"),
}

LOCAL = Profile(2e-5, 80e9, "shared memory between two ranks of one host")
OVERHEAD_S = 5e-6
REDUCTION_BYTES_PER_S = 10e9
