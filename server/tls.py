"""The server's certificate, where it speaks TLS."""

from __future__ import annotations

import ssl

from ..errors import QuireError
from .settings import ServerSettings


def check_certificate(settings: ServerSettings) -> None:
    """Reads certificate and key, if there are any, before a model is loaded for nothing.

    Raises:
        QuireError: A file cannot be read, or certificate and key do not belong together.
    """
    if settings.ssl_certfile is None:
        return
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # An empty password rather than a question at a terminal that may not be there.
        context.load_cert_chain(settings.ssl_certfile, settings.ssl_keyfile, password="")
    except (OSError, ssl.SSLError) as error:
        files = ", ".join(str(file) for file in (settings.ssl_certfile, settings.ssl_keyfile) if file)
        raise QuireError(f"the certificate cannot be used ({files}): {error}") from error


def certificate(settings: ServerSettings) -> tuple[bytes, bytes] | None:
    """Key and certificate chain as gRPC wants them, in PEM; None without TLS."""
    if settings.ssl_certfile is None:
        return None
    chain = settings.ssl_certfile.read_bytes()
    return chain if settings.ssl_keyfile is None else settings.ssl_keyfile.read_bytes(), chain
