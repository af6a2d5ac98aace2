"""Optional TLS under the authentication: TLS 1.3, with certificates on both sides."""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from dmlf.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files of one rank: its certificate, its private key, and the group's own authority.

    Whoever holds a certificate of `authority` is let through to the authentication by key, so
    the authority should sign for this group only. Host names are not compared.
    """

    certificate: str
    key: str
    authority: str

    def context(self, server_side: bool) -> ssl.SSLContext:
        """A context for one side of a connection. Raises ConfigError for unusable files."""
        context = ssl.SSLContext(
            ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT
        )
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        if server_side:
            context.num_tickets = 0  # sessions are never resumed
        try:
            context.load_cert_chain(self.certificate, self.key, password=_no_password)
            context.load_verify_locations(cafile=self.authority)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            files = ", ".join((self.certificate, self.key, self.authority))
            raise ConfigError(
                "tls", files, f"readable PEM files that belong together ({error})"
            ) from None
        return context


def _no_password() -> str:
    """Instead of a prompt at the terminal."""
    raise ValueError("the private key is encrypted")
