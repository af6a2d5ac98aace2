"""Runs on several hosts: the verb worker, and the flags that it shares with train."""

from __future__ import annotations

import argparse
import signal
import stat
from pathlib import Path
from typing import Any

from dmlf.errors import ConfigError
from dmlf.runtime.child import signal_on_parent_death
from dmlf.runtime.coordinator import Secret
from dmlf.training.hosts import Rendezvous, work
from dmlf.transport.tcp import Address, Tls

_MAKE_A_KEY = 'python -c "import secrets; print(secrets.token_hex(32))"'
_TLS = ("tls_certificate", "tls_key", "tls_authority")


def add_verbs(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "worker",
        help="run one rank of a run that another host coordinates",
        description="Join the run that `dmlf train --transport tcp --coordinator HOST:PORT` "
        "coordinates, run one rank of it, and end with it. Start one worker per rank (and per "
        "server), on any hosts, in any order, with the same key and the same dmlf. Where the run "
        "has --min-workers or --max-workers, more may join at any time, and SIGTERM lets one leave "
        "after its step.",
    )
    add_rendezvous_flags(parser, required=True)
    parser.add_argument(
        "--host",
        metavar="ADDRESS",
        help="address at which other ranks reach this host (default: the one that the coordinator "
        "is reached from)",
    )
    parser.add_argument(
        "--data-dir", metavar="FOLDER", help="folder of data sets, if not the coordinator's"
    )
    parser.add_argument(
        "--end-with-parent",
        action="store_true",
        help="end this worker when the process that started it ends, even if that is killed",
    )
    parser.set_defaults(run=_worker)


def add_rendezvous_flags(parser: argparse.ArgumentParser, required: bool = False) -> None:
    """Add the flags that say where ranks of several hosts meet, and how they know one another."""
    group = parser.add_argument_group("several hosts")
    group.add_argument(
        "--coordinator",
        required=required,
        metavar="HOST:PORT",
        help="where workers meet (`dmlf worker`); `dmlf train` listens there and starts no ranks "
        "itself; needs transport tcp",
    )
    group.add_argument(
        "--key-file",
        type=Path,
        required=required,
        metavar="FILE",
        help=f"the secret that all hosts share, readable by its owner alone; make one with: "
        f"{_MAKE_A_KEY}",
    )
    group.add_argument(
        "--join-timeout-s",
        type=float,
        default=300.0,
        metavar="SECONDS",
        help="how long to wait for all to come",
    )
    for name, text in (
        ("certificate", "this host's certificate"),
        ("key", "its private key"),
        ("authority", "the authority that signed all hosts' certificates"),
    ):
        group.add_argument(f"--tls-{name}", metavar="FILE", help=f"PEM file for TLS: {text}")


def rendezvous(parsed: argparse.Namespace) -> Rendezvous | None:
    """What the flags say; None where the ranks are this host's own. Raises ConfigError."""
    if parsed.coordinator is None:
        for name in ("key_file", *_TLS):
            if getattr(parsed, name) is not None:
                raise ConfigError(name, str(getattr(parsed, name)), "--coordinator as well")
        return None
    if parsed.key_file is None:
        raise ConfigError("key_file", None, f"a file with a secret; make one with: {_MAKE_A_KEY}")
    if not 0.0 < parsed.join_timeout_s <= 86_400.0:
        raise ConfigError("join_timeout_s", parsed.join_timeout_s, "a number above 0, to 86400")
    secret = Secret(_read_key(parsed.key_file), _tls(parsed))
    return Rendezvous(_address(parsed.coordinator), secret, parsed.join_timeout_s)


def _worker(parsed: argparse.Namespace) -> int:
    place = rendezvous(parsed)
    assert place is not None  # argparse requires its flags
    if parsed.end_with_parent:
        signal_on_parent_death(signal.SIGTERM)
    print(work(place, parsed.host, parsed.data_dir))
    return 0


def _address(text: str) -> Address:
    host, separator, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (separator and host and port.isdecimal() and 0 < int(port) < 65536):
        raise ConfigError("coordinator", text, "HOST:PORT, such as 10.0.0.1:29400")
    return host, int(port)


def _read_key(path: Path) -> bytes:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError("key_file", str(path), "a regular file")
        if status.st_mode & 0o077:
            allowed = f"a file that only its owner may read; run: chmod 600 {path}"
            raise ConfigError("key_file", str(path), allowed)
        key = path.read_bytes().strip()
    except OSError as error:
        raise ConfigError("key_file", str(path), f"a readable file ({error.strerror})") from None
    if len(key) < 16:
        allowed = f"at least 16 random bytes; make a key with: {_MAKE_A_KEY}"
        raise ConfigError("key_file", f"{path} ({len(key)} bytes)", allowed)
    return key


def _tls(parsed: argparse.Namespace) -> Tls | None:
    files = [getattr(parsed, name) for name in _TLS]
    if not any(files):
        return None
    for name, value in zip(_TLS, files, strict=True):
        if value is None:
            raise ConfigError(name, None, "a PEM file: TLS needs all three")
    tls = Tls(*files)
    tls.context(server_side=True)  # refuse unusable files before anybody connects
    return tls
