"""Signs messages as another program would: canonical forms written anew from RFC 6376 3.4, so that the server's are compared with them."""

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


@cache
def rsa_key(bits: int = 1024) -> rsa.RSAPrivateKey:
    """One per size; small ones are made quickly."""
    return rsa.generate_private_key(65537, bits)


@cache
def ed25519_key() -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"a key for tests").digest())


@dataclass(frozen=True)
class Signer:
    """`also`: further tags. names: `h=`."""

    domain: str = "far.test"
    selector: str = "sel"
    kind: str = "rsa"
    form: str = "relaxed/relaxed"
    also: Sequence[str] = ()
    names: Sequence[str] = ("from", "to", "subject", "date")
    bits: int = 1024
    length: int | None = None
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def key_name(self) -> str:
        return f"{self.selector}._domainkey.{self.domain}"

    def key_record(self, *more: str) -> str:
        """Without quotes."""
        if self.kind == "rsa":
            octets = rsa_key(self.bits).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        else:
            octets = ed25519_key().public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        return "; ".join(["v=DKIM1", f"k={self.kind}", *more, f"p={base64.b64encode(octets).decode()}"])

    def sign(self, message: bytes) -> bytes:
        """The message with the field in front."""
        header, _, body = message.partition(b"\r\n\r\n")
        fields = re.findall(rb"[^\r\n][^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*", header + b"\r\n")
        of_header, _, of_body = self.form.partition("/")
        digest = hashlib.sha256(canonical_body(body, of_body)[: self.length]).digest()
        tags = {
            "v": "1",
            "a": f"{self.kind}-sha256",
            "c": self.form,
            "d": self.domain,
            "s": self.selector,
            "h": ":".join(self.names),
            "bh": base64.b64encode(digest).decode(),
            **self.tags,
        }
        if self.length is not None:
            tags["l"] = str(self.length)
        own = "DKIM-Signature: " + "; ".join([*(f"{name}={value}" for name, value in tags.items()), *self.also, "b="])
        left = list(reversed(fields))
        signed = b""
        for name in self.names:
            found = next((one for one in left if one.partition(b":")[0].strip().lower() == name.lower().encode()), None)
            if found is not None:
                left.remove(found)
                signed += canonical_field(found, of_header)
        signed += canonical_field(own.encode() + b"\r\n", of_header).removesuffix(b"\r\n")
        return f"{own}{base64.b64encode(self._octets(signed)).decode()}\r\n".encode() + message

    def _octets(self, signed: bytes) -> bytes:
        if self.kind == "rsa":
            return rsa_key(self.bits).sign(signed, padding.PKCS1v15(), SHA256())
        return ed25519_key().sign(hashlib.sha256(signed).digest())


def canonical_field(octets: bytes, form: str) -> bytes:
    """RFC 6376 3.4.1, 3.4.2."""
    if form == "simple":
        return octets
    name, _, value = octets.partition(b":")
    return name.strip().lower() + b":" + re.sub(rb"[ \t]+", b" ", value.replace(b"\r\n", b"")).strip() + b"\r\n"


def canonical_body(octets: bytes, form: str) -> bytes:
    """RFC 6376 3.4.3, 3.4.4."""
    lines = octets.split(b"\r\n")
    if form == "relaxed":
        lines = [re.sub(rb"[ \t]+", b" ", line).rstrip(b" ") for line in lines]
    while lines and not lines[-1]:
        lines.pop()
    return b"\r\n".join([*lines, b""]) if lines or form == "relaxed" else b"\r\n"
