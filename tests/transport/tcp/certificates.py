"""Certificates made on the spot, by the program `openssl`."""

from __future__ import annotations

import subprocess
from pathlib import Path

from dmlf.transport.tcp import Tls


def authority(folder: Path, name: str) -> Path:
    """A new authority; returns its certificate, beside which its key lies."""
    certificate = folder / f"{name}.pem"
    _openssl(
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
        *("-days", "2", "-subj", f"/CN={name}", "-out", str(certificate)),
        *("-keyout", str(certificate.with_suffix(".key"))),
    )
    return certificate


def member(folder: Path, name: str, signer: Path) -> Tls:
    """A rank's files, its certificate signed by `signer`."""
    certificate, key, request = (folder / f"{name}.{end}" for end in ("pem", "key", "csr"))
    _openssl(
        *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
        *("-subj", f"/CN={name}", "-keyout", str(key), "-out", str(request)),
    )
    _openssl(
        *("x509", "-req", "-in", str(request), "-days", "2", "-out", str(certificate)),
        *("-CA", str(signer), "-CAkey", str(signer.with_suffix(".key")), "-set_serial", "1"),
    )
    return Tls(str(certificate), str(key), str(signer))


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60)
