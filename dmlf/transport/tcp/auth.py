"""Mutual authentication by a shared key, before anything else is parsed. No I/O, no clock.

    initiator                                  acceptor
    hello_i ---------------------------------> (72 bytes: who, which group, nonce)
            <---------------- hello_a, mac_a   (72 + 32 bytes)
    checks mac_a
    mac_i -----------------------------------> (32 bytes)
                                               checks mac_i
            <-------------------------- mac_c  (32 bytes: accepted)

    mac_x = HMAC-SHA256(key, label of x + hello_i + hello_a)

Each side adds a fresh nonce, so nothing can be replayed; labels differ by direction, so nothing
can be reflected; both identities are under every MAC, so nothing can be passed on to another
rank, group, generation or purpose. Purpose, group and rank are judged only after the MAC.

Errors: AuthenticationError; of a peer that does hold the key also SchemaMismatch (another group
size) and GenerationMismatch. After an error `outgoing` may hold bytes that let the peer see the
cause too. Source: the scheme is that of ISO/IEC 9798-4, mutual authentication in three passes.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Collection
from enum import IntEnum
from typing import NamedTuple

from dmlf.errors import AuthenticationError, ConfigError, GenerationMismatch, SchemaMismatch

MAGIC = b"dmlf"
VERSION = 1
NONCE_BYTES = 32
MIN_KEY_BYTES = 16
MAX_PURPOSE_BYTES = 16
_MAC_BYTES = hashlib.sha256().digest_size
# magic, version, role, unused, purpose, rank, group size, generation, nonce
_HELLO = struct.Struct(f"<4sHBx{MAX_PURPOSE_BYTES}sIIQ{NONCE_BYTES}s")
HELLO_BYTES = _HELLO.size


class Role(IntEnum):
    """Who opened the connection."""

    INITIATOR = 1
    ACCEPTOR = 2


class Identity(NamedTuple):
    """Who speaks, about what. A channel's ends are rank 0 of a group of 0."""

    purpose: str
    rank: int = 0
    group_size: int = 0
    generation: int = 0


class Session(NamedTuple):
    """What both ends know after authentication: one another, and a seed per direction."""

    peer: Identity
    send_seed: int
    receive_seed: int


def check_key(key: bytes) -> bytes:
    """Return `key`. Raises ConfigError, without the key in it, when it is too short."""
    if len(key) < MIN_KEY_BYTES:
        allowed = f"at least {MIN_KEY_BYTES} random bytes"
        raise ConfigError("key", f"{len(key)} bytes", allowed)
    return key


class Handshake:
    """One end's part. Give it the bytes it `wants` until `session` is there.

    peer: how errors call the other end until it has said its rank.
    ranks: whom the other end may be.
    nonce: NONCE_BYTES random bytes, used once.
    """

    def __init__(
        self,
        role: Role,
        key: bytes,
        me: Identity,
        ranks: Collection[int],
        peer: str,
        nonce: bytes,
    ) -> None:
        purpose = me.purpose.encode("ascii")
        if not 0 < len(purpose) <= MAX_PURPOSE_BYTES or len(nonce) != NONCE_BYTES:
            raise ValueError(f"purpose {me.purpose!r} or nonce of {len(nonce)} bytes")
        self._role = role
        self._key = check_key(key)
        self._me = me
        self.ranks = ranks
        self._hello = _HELLO.pack(MAGIC, VERSION, role, purpose, *me[1:], nonce)
        self._both = b""
        self._peer_identity: Identity | None = None
        self._answered = False
        self.peer = peer
        self.outgoing = self._hello if role is Role.INITIATOR else b""
        self.wants = HELLO_BYTES
        self.session: Session | None = None

    def receive(self, data: bytes) -> None:
        """Take exactly `wants` bytes.

        Raises AuthenticationError, SchemaMismatch, GenerationMismatch.
        """
        if len(data) != self.wants or self.session is not None:
            raise ValueError(f"{len(data)} bytes, not {self.wants}")
        if self._peer_identity is None:
            self._receive_hello(data)
        elif self._role is Role.ACCEPTOR:
            self._check(b"initiator", data)
            self._agree(self._peer_identity)
            self.outgoing = self._mac(b"accepted")
            self._finish(self._peer_identity)
        elif not self._answered:
            self._check(b"acceptor", data)
            self.outgoing = self._mac(b"initiator")
            self._answered = True
            self._agree(self._peer_identity)
        else:
            self._check(b"accepted", data)
            self._finish(self._peer_identity)

    def _receive_hello(self, data: bytes) -> None:
        magic, version, role, purpose, rank, group_size, generation, nonce = _HELLO.unpack(data)
        if magic != MAGIC:
            raise AuthenticationError(self.peer, "it does not speak dmlf's protocol")
        if self._role is Role.ACCEPTOR:
            self._both = data + self._hello
            self.outgoing = self._hello + self._mac(b"acceptor")
        else:
            self._both = self._hello + data
        if version != VERSION:
            detail = f"it speaks version {version} of the protocol, this end {VERSION}"
            raise AuthenticationError(self.peer, f"{detail}; install the same dmlf on all hosts")
        if role != 3 - self._role or nonce == self._hello[-NONCE_BYTES:]:
            raise AuthenticationError(self.peer, "it sent back what it was sent")
        name = purpose.rstrip(b"\0").decode("ascii", "replace")
        self._peer_identity = Identity(name, rank, group_size, generation)
        if self._me.group_size:
            self.peer = f"rank {rank} ({self.peer})"
        self.wants = _MAC_BYTES

    def _mac(self, label: bytes) -> bytes:
        return hmac.digest(self._key, b"dmlf " + label + b"\0" + self._both, "sha256")

    def _check(self, label: bytes, mac: bytes) -> None:
        if not hmac.compare_digest(mac, self._mac(label)):
            raise AuthenticationError(self.peer, "it holds another key; give all ranks the same")

    def _agree(self, peer: Identity) -> None:
        """Hold what the peer said, now known to be its own words, against what must be."""
        me = self._me
        if peer.purpose != me.purpose:
            detail = f"it came for {peer.purpose!r}, this end is for {me.purpose!r}"
            raise AuthenticationError(self.peer, detail)
        if peer.group_size != me.group_size:
            raise SchemaMismatch(
                me.rank,
                f"a group of {me.group_size} ranks",
                f"one of {peer.group_size} from {self.peer}",
                "start all ranks with the same world size",
            )
        if peer.generation != me.generation:
            received = f"{peer.generation} from {self.peer}"
            raise GenerationMismatch(me.rank, f"generation {me.generation}", received)
        if peer.rank not in self.ranks:
            allowed = ", ".join(map(str, sorted(self.ranks))) or "nobody"
            raise AuthenticationError(self.peer, f"expected rank {allowed}")

    def _finish(self, peer: Identity) -> None:
        seeds = [
            int.from_bytes(self._mac(b"seed of the " + side)[:8], "little")
            for side in (b"initiator", b"acceptor")
        ]
        own, other = seeds if self._role is Role.INITIATOR else reversed(seeds)
        self.wants = 0
        self.session = Session(peer, own, other)
