"""Every transport, for `pytest.mark.parametrize`; skipped where it cannot run."""

from dmlf.conformance.groups import transports
from dmlf.transport import TRANSPORTS

EVERY_TRANSPORT = transports(TRANSPORTS)
