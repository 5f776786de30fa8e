"""The server's half of SCRAM-SHA-256 (RFC 5802, RFC 7677) as pure functions over the messages. Called by sasl.ScramExchange.

scramp, whose client the tests use as the peer, has a server too; it refuses an authorization identity, which GNU SASL (mbsync, neomutt,
msmtp) always sends. Invariants: nothing is decided before the proof is checked, in constant time; channel binding is not offered.
Fails with ScramError, whose text is for the log.
"""

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass

from gatepost.directory.values import ScramKeys

_ATTRIBUTE = re.compile(r"[A-Za-z]=[^\0,]+\Z")
_NONCE = re.compile(r"[\x21-\x2b\x2d-\x7e]{1,512}\Z")
_BAD_ESCAPE = re.compile(r"=(?!2C|3D)")


class ScramError(Exception):
    """Malformed, or the proof is wrong."""


@dataclass(frozen=True, slots=True)
class ClientFirst:
    """client-first-message (RFC 5802 7) in its parts; `header` and `bare` as they were sent."""

    header: str
    bare: str
    authzid: str
    user: str
    nonce: str


def parse_client_first(text: str) -> ClientFirst:
    """gs2-cbind-flag "," [ "a=" saslname ] "," "n=" saslname "," "r=" nonce [ "," extensions ]."""
    flag, _, rest = text.partition(",")
    authzid, comma, bare = rest.partition(",")
    if not comma or (authzid and not authzid.startswith("a=")):
        raise ScramError("client-first-message has no GS2 header")
    if flag not in ("n", "y"):  # RFC 5802 6: 'p' asks for a channel binding that was not offered
        raise ScramError("channel binding is not offered" if flag.startswith("p=") else "bad GS2 flag")
    attributes = _attributes(bare)
    if len(attributes) < 2 or attributes[0][0] != "n" or attributes[1][0] != "r":
        raise ScramError("client-first-message needs n= and r=, and knows no m=")
    if not _NONCE.match(attributes[1][1]):
        raise ScramError("bad client nonce")
    header = text[: len(text) - len(bare)]
    return ClientFirst(header, bare, _saslname(authzid[2:]), _saslname(attributes[0][1]), attributes[1][1])


class ScramServer:
    """One exchange after client-first: `first` is to be sent, `finish` checks what comes back."""

    def __init__(self, client: ClientFirst, keys: ScramKeys) -> None:
        self._client = client
        self._keys = keys
        self._nonce = client.nonce + secrets.token_urlsafe(18)
        salt = base64.b64encode(keys.salt).decode()
        self.first = f"r={self._nonce},s={salt},i={keys.iterations}"

    def finish(self, text: str) -> str:
        """Check client-final-message; the server-final-message. Raises ScramError."""
        without_proof, _, proof = text.rpartition(",p=")
        attributes = _attributes(without_proof)
        if len(attributes) < 2 or attributes[0][0] != "c" or attributes[1][0] != "r":
            raise ScramError("client-final-message needs c=, r= and p=")
        # RFC 5802 5.1: c= repeats the GS2 header, so that nobody on the way can have changed the flag or the authorization identity.
        if _decoded(attributes[0][1]) != self._client.header.encode():
            raise ScramError("the GS2 header differs")
        if not hmac.compare_digest(attributes[1][1].encode(), self._nonce.encode()):
            raise ScramError("the nonce differs")
        message = f"{self._client.bare},{self.first},{without_proof}".encode()
        self._check_proof(_decoded(proof), message)
        signature = hmac.digest(self._keys.server_key, message, "sha256")
        return f"v={base64.b64encode(signature).decode()}"

    def _check_proof(self, proof: bytes, message: bytes) -> None:
        """RFC 5802 3: ClientKey := ClientProof XOR HMAC(StoredKey, AuthMessage); H(ClientKey) must be StoredKey."""
        signature = hmac.digest(self._keys.stored_key, message, "sha256")
        if len(proof) != len(signature):
            raise ScramError("bad proof")
        client_key = bytes(a ^ b for a, b in zip(proof, signature, strict=True))
        if not hmac.compare_digest(hashlib.sha256(client_key).digest(), self._keys.stored_key):
            raise ScramError("wrong proof")


def _attributes(text: str) -> list[tuple[str, str]]:
    """'n=a,r=b' as pairs, in order; none may come twice."""
    parts = text.split(",")
    if not all(_ATTRIBUTE.match(part) for part in parts):
        raise ScramError("bad attribute")
    if len({part[0] for part in parts}) != len(parts):
        raise ScramError("an attribute comes twice")
    return [(part[0], part[2:]) for part in parts]


def _saslname(text: str) -> str:
    """RFC 5802 5.1: ',' and '=' are written =2C and =3D."""
    if _BAD_ESCAPE.search(text):
        raise ScramError("bad escape in a name")
    return text.replace("=2C", ",").replace("=3D", "=")


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ScramError("bad base64") from None
