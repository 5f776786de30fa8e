"""Whether the octets of a DKIM signature fit: RSA (RFC 8301) and Ed25519 (RFC 8463). Called by dkim.py, in a thread. Never raises.

A module of its own because `cryptography` takes long to import: a worker listens before it is there (app/behind.py).
"""

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from gatepost.policy.mail_auth.dkim_signature import Key
from gatepost.policy.mail_auth.results import Word

BITS_LEAST, BITS_MOST = 1024, 8192
"""Of an RSA key (RFC 8301 3.2)."""

_OTHER = (Word.FAIL, "the signature does not fit the header")


def fault_of(octets: bytes, key: Key, digest: bytes) -> tuple[Word, str] | None:
    """Why the signature `octets` over a SHA-256 `digest` does not pass; None when it does."""
    try:
        if key.kind == "ed25519":
            Ed25519PublicKey.from_public_bytes(key.octets).verify(octets, digest)  # RFC 8463 3: of the digest
            return None
        public = load_der_public_key(key.octets)
    except (ValueError, UnsupportedAlgorithm):
        return Word.PERMERROR, "the key cannot be read"
    except InvalidSignature:
        return _OTHER
    if not isinstance(public, RSAPublicKey):
        return Word.PERMERROR, "a key of another kind"
    if not BITS_LEAST <= public.key_size <= BITS_MOST:
        return Word.POLICY, f"an RSA key of {public.key_size} bits"
    try:
        public.verify(octets, digest, PKCS1v15(), Prehashed(SHA256()))
    except InvalidSignature:
        return _OTHER
    return None
