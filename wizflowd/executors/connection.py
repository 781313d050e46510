"""Why another host could not be reached, in words for a person.

In: what a network library raised. Out: an `AttemptError` with the first cause. Called by `rest` and `email`.
"""

import os
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

from wizflowd.executors.inprocess import AttemptError


def connection_error(exc: Exception, host: str, port: int | None, *, ca_setting: str) -> AttemptError:
    """Return the error for an exchange that broke off; `ca_setting` is what names an authority to trust."""
    where = f"{host}:{port}" if port else host
    for cause in _causes(exc):
        match cause:
            case ssl.SSLCertVerificationError():
                what = f"cannot trust the certificate of {where}: {cause.verify_message}"
                return AttemptError("connection", what, hint=f"{ca_setting} names the authority to trust")
            case ssl.SSLError():
                return AttemptError("connection", f"cannot speak TLS with {where}: {cause.reason or cause}")
            case socket.gaierror():
                return AttemptError("connection", f"cannot find the host {host}: {cause.strerror}")
            case OSError() if cause.errno:
                # asyncio's own text for a refused connection is longer and says less.
                return AttemptError("connection", f"cannot reach {where}: {os.strerror(cause.errno)}")
    return AttemptError("connection", f"the exchange with {where} broke off: {str(exc) or type(exc).__name__}")


def tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """Return a context that verifies by `ca_file` alone, or by what the host trusts. Raises OSError. Blocks."""
    context = ssl.create_default_context(cafile=ca_file)
    known = ssl.get_default_verify_paths()
    if ca_file is None and known.cafile is None and known.capath is None:
        import certifi  # comes with httpx; for a Python that does not find the certificates of its host

        context.load_verify_locations(certifi.where())
    return context


def _causes(exc: BaseException) -> Iterator[BaseException]:
    """Give an exception and those behind it, the first cause first."""
    for behind in (exc.__cause__ or exc.__context__, *getattr(exc, "exceptions", ())):
        if behind is not None:
            yield from _causes(behind)
    yield exc
