"""Ranks that others have started meet at a key-value store, and connect.

Keys below `prefix`, values are JSON:

    here/R        each rank: a nonce, what it was told of the group, its host, its address
    plan          rank 0, once all are here: an id, all nonces, the transport
    ID/ready/R    each rank that finds its nonce in the plan; over tcp, where it listens
    ID/go         rank 0, once all are ready: the secrets, and all addresses

What an earlier group has left under the same prefix does no harm: a plan counts only for the
nonces that it names, and rank 0 makes a new one when a rank turns out to be new. Errors travel
in place of `plan`, `ready` or `go`, so all ranks that are here raise the same.

Whoever can read the store can join: it must be as private as the training.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import time
from typing import Any, Protocol

from dmlf import strict_json
from dmlf.errors import (
    ConfigError,
    DmlfError,
    RendezvousError,
    SchemaMismatch,
    TransportError,
)
from dmlf.group.host import address_towards, host_identity
from dmlf.runtime import NoTransport
from dmlf.runtime.wire_errors import error_from_plain, error_to_plain
from dmlf.transport import Transport
from dmlf.transport.shm import ShmEndpoint, create_memory
from dmlf.transport.shm.handover import Counter, collect
from dmlf.transport.tcp import Address, Listener, TcpEndpoint, listen
from dmlf.transport.tcp.sockets import is_loopback

TRANSPORTS = ("shm", "tcp")
_LOOPBACK = "127.0.0.1"
_FIRST_LOOK_S, _LAST_LOOK_S = 0.001, 0.05
"""How long after one look at the store comes the next: longer the longer it takes."""

_Value = dict[str, Any]


class Store(Protocol):
    """A key-value store that all ranks reach; every torch.distributed.Store is one."""

    def set(self, key: str, value: str, /) -> object:
        """Set the value of a key."""

    def get(self, key: str, /) -> bytes:
        """The value of a key that exists."""

    def check(self, keys: list[str], /) -> bool:
        """Whether all keys exist."""

    def delete_key(self, key: str, /) -> bool:
        """Forget a key."""


def transport_over_store(
    store: Store,
    rank: int,
    world_size: int,
    *,
    transport: str | None = None,
    timeout_s: float = 300.0,
    prefix: str = "dmlf",
) -> Transport:
    """Meet all ranks at `store` and return this rank's transport to them.

    transport: `shm` or `tcp`; by default shm if all ranks are of one host, else tcp. Over tcp a
    rank listens on the address from which it reaches the store's host, on loopback if all do.
    prefix: names the group; groups that meet at the same time need different ones.
    Cost: 4 values in the store a rank; rank 0 reads all of them.
    Raises ConfigError, SchemaMismatch (ranks were told different things), RendezvousError, which
    names the missing ranks, after `timeout_s`, and what connecting raises: on all ranks alike.
    """
    if transport not in (None, *TRANSPORTS):
        raise ConfigError("transport", transport, " or ".join(TRANSPORTS))
    if world_size == 1:
        return NoTransport()
    meeting = _Meeting(store, rank, world_size, transport, timeout_s, prefix)
    try:
        return meeting.lead() if rank == 0 else meeting.follow()
    except RuntimeError as error:
        detail = f"the store failed: {str(error).partition(chr(10))[0]}"
        raise RendezvousError(rank, [0], timeout_s, detail) from error
    finally:
        meeting.close()


class _Meeting:
    def __init__(
        self,
        store: Store,
        rank: int,
        world_size: int,
        transport: str | None,
        timeout_s: float,
        prefix: str,
    ) -> None:
        self._store = store
        self._rank = rank
        self._size = world_size
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s
        self._prefix = prefix
        self._look_s = _FIRST_LOOK_S
        self._nonce = secrets.token_hex(8)
        self._listener: Listener | None = None
        self._counter: Counter | None = None
        self._mismatch: DmlfError | None = None
        self._here: _Value = {
            "nonce": self._nonce,
            "world_size": world_size,
            "transport": transport,
            "host": host_identity(),
            "address": address_towards(_host_of(store)),
        }
        self._set(f"here/{rank}", self._here)

    def close(self) -> None:
        """Let go of what the transport has not taken."""
        if self._counter is not None:
            self._counter.close()
        if self._listener is not None:
            self._listener.close()

    # Rank 0

    def lead(self) -> Transport:
        """Rank 0's part."""
        here: list[_Value | None] = [self._here] + [None] * (self._size - 1)
        ready: list[_Value | None] = [None] * self._size
        plan: _Value = {}
        while True:
            changed = False
            for rank in range(1, self._size):
                if ready[rank] is None:
                    found = self._get(f"here/{rank}")
                    if found != here[rank]:
                        here[rank], changed = found, True
            if changed and None not in here:
                plan = self._plan([value for value in here if value is not None])
                ready = [self._get_ready(plan), *([None] * (self._size - 1))]
                self._set("plan", plan)
            if plan:
                for rank in range(1, self._size):
                    ready[rank] = ready[rank] or self._get(f"{plan['id']}/ready/{rank}")
                if None not in ready:
                    return self._go(plan, [value for value in ready if value is not None])
            waits_for = ready if plan else here
            self._wait([rank for rank, value in enumerate(waits_for) if value is None], here)

    def _plan(self, here: list[_Value]) -> _Value:
        plan: _Value = {"id": secrets.token_hex(8), "nonces": [value["nonce"] for value in here]}
        self._mismatch = None
        try:
            return plan | _decide(here)
        except DmlfError as error:  # or one of them is left from before: told once all are ready
            self._mismatch = error
            return plan | {"transport": None}

    def _go(self, plan: _Value, ready: list[_Value]) -> Transport:
        name = f"{plan['id']}/go"
        errors = [error_from_plain(value["error"]) for value in ready if "error" in value]
        for error in (self._mismatch, *errors):
            if error is not None:
                self._fail(name, {}, error)
                raise error
        token = secrets.token_bytes(16)
        go: _Value = {"token": token.hex(), "addresses": [value["address"] for value in ready]}
        made: Transport
        if plan["transport"] == "shm":
            try:
                memory = create_memory(self._size)
                self._counter = Counter()
            except (DmlfError, OSError) as error:
                failure = error if isinstance(error, DmlfError) else _refused(error)
                self._fail(name, {}, failure)
                raise failure from None
            self._set(name, go | {"counter": self._counter.name})
            self._counter.serve(memory, token, self._remaining_s())
            made = ShmEndpoint(0, memory).connect()
        else:
            self._set(name, go)
            made = self._connect_tcp(go)
        # All have read it: who connects knows the token.
        for key in (name, *(f"{plan['id']}/ready/{rank}" for rank in range(1, self._size))):
            with contextlib.suppress(RuntimeError):  # not every store can forget
                self._store.delete_key(f"{self._prefix}/{key}")
        return made

    # The others

    def follow(self) -> Transport:
        """The part of every rank but 0."""
        plan: _Value = {}
        while True:
            found = self._get("plan")
            if found and found != plan and self._nonce in found["nonces"]:
                plan = found
                _raise_error(plan)
                ready = self._get_ready(plan)
                self._set(f"{plan['id']}/ready/{self._rank}", ready)
            go = self._get(f"{plan['id']}/go") if plan else None
            if go:
                _raise_error(go)
                return self._connect(plan, go)
            self._wait([0], None)

    def _connect(self, plan: _Value, go: _Value) -> Transport:
        if plan["transport"] == "tcp":
            return self._connect_tcp(go)
        token = bytes.fromhex(go["token"])
        memory = collect(go["counter"], token, self._rank, self._remaining_s())
        return ShmEndpoint(self._rank, memory).connect()

    # All

    def _get_ready(self, plan: _Value) -> _Value:
        """Listen, if the plan is tcp; where, or why not."""
        if plan["transport"] != "tcp":
            return {"address": None}
        if self._listener is not None:
            self._listener.close()
        # A key is needed to listen beyond loopback; the real one comes with `go`.
        try:
            host = _listening_host(plan, self._here["address"])
            self._listener = listen(host, 0, secrets.token_bytes(16))
        except DmlfError as error:
            return {"error": error_to_plain(error)}
        return {"address": self._listener.address}

    def _connect_tcp(self, go: _Value) -> Transport:
        assert self._listener is not None
        addresses: list[Address] = [(str(host), int(port)) for host, port in go["addresses"]]
        endpoint = TcpEndpoint(
            self._rank,
            self._listener,
            addresses,
            bytes.fromhex(go["token"]),
            connect_timeout_s=self._remaining_s(),
        )
        self._listener = None  # connecting closes it
        return endpoint.connect()

    def _remaining_s(self) -> float:
        return max(0.001, self._deadline - time.monotonic())

    def _wait(self, missing: list[int], here: list[_Value | None] | None) -> None:
        """Wait before the next look. Raises RendezvousError when there is no time left."""
        remaining_s = self._deadline - time.monotonic()
        if remaining_s > 0.0:
            time.sleep(min(self._look_s, remaining_s))
            self._look_s = min(self._look_s * 1.5, _LAST_LOOK_S)
            return
        if here is None:  # rank 0 may not have come, or waits for somebody too
            absent = [rank for rank in range(self._size) if not self._has(f"here/{rank}")]
            raise RendezvousError(self._rank, absent or missing, self._timeout_s)
        error = RendezvousError(0, missing, self._timeout_s)
        nonces = [value["nonce"] for value in here if value is not None]
        self._fail("plan", {"id": secrets.token_hex(8), "nonces": nonces}, error)
        raise error

    def _fail(self, key: str, value: _Value, error: DmlfError) -> None:
        self._set(key, value | {"error": error_to_plain(error)})

    def _has(self, key: str) -> bool:
        return self._store.check([f"{self._prefix}/{key}"])

    def _get(self, key: str) -> _Value | None:
        if not self._has(key):
            return None
        name = f"{self._prefix}/{key}"
        try:
            value = strict_json.parse(self._store.get(name))
        except ValueError as error:
            raise TransportError(f"the store's {name} is not dmlf's: {error}") from None
        if not isinstance(value, dict):
            raise TransportError(f"the store's {name} is not dmlf's: no object")
        return value

    def _set(self, key: str, value: _Value) -> None:
        self._store.set(f"{self._prefix}/{key}", json.dumps(value))


def _decide(here: list[_Value]) -> _Value:
    """The transport, and the addresses that are known, from what all ranks have said."""
    for name in ("world_size", "transport"):
        for rank, value in enumerate(here):
            if value[name] != here[0][name]:
                expected = f"{name} {here[0][name]!r}"
                detail = "all ranks must be told the same"
                raise SchemaMismatch(0, expected, f"{value[name]!r} from rank {rank}", detail)
    hosts = [value["host"] for value in here]
    one_host = len(set(hosts)) == 1
    transport = here[0]["transport"] or ("shm" if one_host else "tcp")
    if transport == "shm" and not one_host:
        other = next(rank for rank, host in enumerate(hosts) if host != hosts[0])
        raise ConfigError("transport", "shm", f"tcp: ranks 0 and {other} share no host and user")
    addresses = [_LOOPBACK if one_host else value["address"] for value in here]
    return {"transport": transport, "addresses": addresses}


def _listening_host(plan: _Value, own: str | None) -> str:
    """The address on which this rank can be reached by all others. Raises ConfigError."""
    known = [address for address in plan["addresses"] if address is not None]
    if len(known) == len(plan["addresses"]) and all(map(is_loopback, known)):
        return _LOOPBACK  # all reach the store's host by loopback, so this is it
    if own is None or is_loopback(own):  # the store's own host: turn to one of the others
        for address in known:
            if not is_loopback(address):
                own = address_towards(address)
                break
    if own is None or is_loopback(own):
        allowed = "a host name or address by which all ranks reach rank 0's host, and it them"
        raise ConfigError("MASTER_ADDR", os.environ.get("MASTER_ADDR"), allowed)
    return own


def _host_of(store: Any) -> str:
    """The host that keeps the store, as far as is known; of files, this one."""
    while not hasattr(store, "host") and hasattr(store, "underlying_store"):
        store = store.underlying_store
    return str(getattr(store, "host", "") or os.environ.get("MASTER_ADDR") or socket.gethostname())


def _raise_error(value: _Value) -> None:
    if "error" in value:
        raise error_from_plain(value["error"])


def _refused(error: OSError) -> DmlfError:
    return ConfigError("transport", "shm", f"tcp: this system refuses it ({error})")
