"""Transport `tcp`: authenticated connections between ranks, on one host or several.

Every frame carries who it is from and for, and a checksum of its header and of its payload
(`frames.py`). A connection counts only once both ends have proved that they hold the group's key
(`auth.py`), if wanted inside TLS (`tls.py`). What this promises, and what not: `docs/tcp.md`.

- No call blocks for ever, and ranks that all send before any receives do not block one another:
  what the kernel does not take at once is queued, and goes out during later calls or, between
  them, from a thread. A registered vector is queued as it is, anything else as a copy.
- A deadline is for the whole frame: a peer that trickles does not extend it. The part that has
  come is kept, so the link works on after a deadline.
- A peer that is gone is PeerLost at once, an altered frame ChecksumMismatch; both end the link.
"""

from dmlf.transport.tcp.channel import Acceptor, Channel, dial
from dmlf.transport.tcp.sockets import Address, Listener, listen
from dmlf.transport.tcp.tls import Tls
from dmlf.transport.tcp.transport import TcpEndpoint, TcpTransport, create_endpoints

__all__ = [
    "Acceptor",
    "Address",
    "Channel",
    "Listener",
    "TcpEndpoint",
    "TcpTransport",
    "Tls",
    "create_endpoints",
    "dial",
    "listen",
]
