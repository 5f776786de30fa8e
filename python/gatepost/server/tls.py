"""TLS contexts of the protocol servers: the configured certificate, or a self-signed one made on first start.

app/ makes one TlsContexts per process. It hands out one SSLContext object for as long as it lives, so that listeners may keep it; each
handshake is switched over to the context that `reload()` (SIGHUP) made last. Loading a new certificate into the old context would not
do: OpenSSL keeps one for each type of key, and would go on serving the old ECDSA one beside a new RSA one. Invariant: a reload
that fails raises and changes nothing. Fails with TlsError, whose text names the files.
"""

import asyncio
import fcntl
import hashlib
import ssl
from collections.abc import Callable
from pathlib import Path

from gatepost.config import Settings
from gatepost.config.files import replace_file

HANDSHAKE_SECONDS = 30.0
SHUTDOWN_SECONDS = 5.0


class TlsError(Exception):
    """Certificate or key cannot be used; the text says which file and why."""


class TlsContexts:
    """Holds the server context."""

    def __init__(self, settings: Callable[[], Settings]) -> None:
        self._settings = settings
        self._current = self._load()
        self._context = self._load()
        self._context.sni_callback = self._switch

    def server_context(self) -> ssl.SSLContext:
        """The context for handshakes with clients; the same object every time."""
        return self._context

    def reload(self) -> None:
        """Read certificate and key again. Raises TlsError and keeps what is in force."""
        self._current = self._load()
        self._context.minimum_version = self._current.minimum_version
        self._context.verify_mode = self._current.verify_mode  # a handshake begins with this one, and verifies against the other's store

    def _switch(self, handshake: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        """Called by OpenSSL for every ClientHello, with a server name in it or not, before it picks a certificate."""
        handshake.context = self._current

    def _load(self) -> ssl.SSLContext:
        settings = self._settings()
        cert, key = certificate_files(settings)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3 if settings.tls.min_version == "1.3" else ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
        try:
            context.load_cert_chain(cert, key)
        except (OSError, ssl.SSLError) as error:
            raise TlsError(f"certificate {cert} with key {key}: {error}") from error
        authorities = settings.tls.client_ca_file
        if authorities:
            try:
                context.load_verify_locations(authorities)
            except (OSError, ssl.SSLError) as error:
                raise TlsError(f"tls.client_ca_file {authorities}: {error}") from error
            context.verify_mode = ssl.CERT_OPTIONAL
        return context


def client_certificate(handshake: ssl.SSLObject | None) -> tuple[str, str]:
    """SHA-256 in hex and subject (RFC 4514) of the certificate a client has shown and that was verified; ('', '') without one."""
    from cryptography import x509  # 40 ms, which the start of a worker does not wait for

    octets = handshake.getpeercert(binary_form=True) if handshake is not None else None
    if not octets:
        return "", ""
    return hashlib.sha256(octets).hexdigest(), x509.load_der_x509_certificate(octets).subject.rfc4514_string()


def certificate_files(settings: Settings) -> tuple[Path, Path]:
    """(certificate, key) of the settings, or the self-signed pair in DIR/tls, made when missing. Raises TlsError."""
    if settings.tls.cert_file:
        return Path(settings.tls.cert_file), Path(settings.tls.key_file)
    directory = Path(settings.data) / "tls"
    cert, key = directory / "cert.pem", directory / "key.pem"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (directory / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # workers start at once; one of them makes the pair
            if not (cert.exists() and key.exists()):
                _write_self_signed(settings.hostname, cert, key)
    except OSError as error:
        raise TlsError(f"{directory}: {error.strerror or error}") from error
    return cert, key


def _write_self_signed(hostname: str, cert: Path, key: Path) -> None:
    from gatepost.server.self_signed import make_self_signed  # once in the life of a data directory

    certificate, private_key = make_self_signed(hostname)
    replace_file(key, private_key)
    replace_file(cert, certificate, 0o644)


async def start_server_tls(transport: asyncio.Transport, protocol: asyncio.Protocol, context: ssl.SSLContext) -> asyncio.Transport:
    """Turn a plain connection into a TLS one (STARTTLS). Not for TLS from the first octet: uvloop reads right after `connection_made`,
    whatever was paused there, so an early ClientHello would be lost. The caller paused reading before it wrote its
    go-ahead, so no plaintext that was sent behind it reaches the protocol: it fails the handshake instead (RFC 3207 section 6).

    Raises OSError (ssl.SSLError, ConnectionError, TimeoutError) when the handshake fails; the transport is aborted then.
    """
    loop = asyncio.get_running_loop()
    try:
        secured = await loop.start_tls(
            transport,
            protocol,
            context,
            server_side=True,
            ssl_handshake_timeout=HANDSHAKE_SECONDS,
            ssl_shutdown_timeout=SHUTDOWN_SECONDS,
        )
    except BaseException:
        transport.abort()
        raise
    if secured is None:
        raise ConnectionResetError("connection closed during the TLS handshake")
    return secured
