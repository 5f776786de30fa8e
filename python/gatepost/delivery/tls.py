"""TLS contexts for outgoing connections. Made once per setting; used by smtp_session. Fails with OSError (no such CA file, not PEM)."""

import ssl
from collections.abc import Callable
from hashlib import sha256

from gatepost.config import Settings


class ClientTls:
    """Hands out the context for verified and for unverified connections."""

    def __init__(self, settings: Callable[[], Settings]) -> None:
        self._settings = settings
        self._unverified: ssl.SSLContext | None = None
        self._verified: tuple[str, ssl.SSLContext] | None = None

    def context(self, verified: bool) -> ssl.SSLContext:
        """Verified: chain and name are checked. Unverified: encryption only (RFC 7435 opportunistic security)."""
        return self._checking() if verified else self._trusting()

    def reload(self) -> None:
        """Read the CA file anew at the next use (SIGHUP)."""
        self._verified = None

    def _checking(self) -> ssl.SSLContext:
        ca_file = self._settings().delivery.verify_ca_file
        if self._verified is None or self._verified[0] != ca_file:
            context = ssl.create_default_context(cafile=ca_file or None)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            self._verified = (ca_file, context)
        return self._verified[1]

    def _trusting(self) -> ssl.SSLContext:
        if self._unverified is None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            self._unverified = context
        return self._unverified


def public_key_digest(certificate: bytes) -> str:
    """SHA-256 of the SubjectPublicKeyInfo (RFC 7469 2.4) of a DER certificate, lower-case hex; '' when it cannot be read."""
    from cryptography import x509  # 40 ms, which the start of a worker does not wait for
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    try:
        key = x509.load_der_x509_certificate(certificate).public_key()
    except ValueError:
        return ""
    return sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()
