"""Named links: what to assume of a network that was not measured.

Bandwidth is the line rate of a port. Latency is of one small message between two processes over
TCP through one switch, as such networks commonly show it; measure yours where it matters
(`docs/projection.md`). `loopback`, and links within hosts (shared memory), are what
`dmlf collective` and the fit found for the transports tcp and shm on one two-core virtual machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dmlf.benchmark.collective.load import read_record
from dmlf.benchmark.cost_model import fit, samples_of
from dmlf.errors import ConfigError, MetricsError
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
    "loopback": Profile(2.4e-5, 49e9, "transport tcp between processes of one host"),
}

LOCAL = Profile(1e-5, 208e9, "shared memory between two ranks of one host")
OVERHEAD_S = 5e-6
REDUCTION_BYTES_PER_S = 10e9


def calibrated(path: Path, transport: str) -> Link:
    """The link of a transport, fitted to a record of `dmlf collective`.

    One bandwidth, additions included where the record cannot tell them apart. Raises ConfigError.
    """
    try:
        samples = samples_of(read_record(path), transport)
    except (MetricsError, OSError) as error:
        raise ConfigError(
            "calibrate", str(path), f"a record of dmlf collective ({error})"
        ) from None
    if not samples:
        allowed = f"a record with ring or tree over {transport} where ranks fit the cores"
        raise ConfigError("calibrate", str(path), allowed)
    found = fit(samples)
    return Link(found.latency_s.median, 1 / max(found.s_per_byte[0].median, 1e-15))
