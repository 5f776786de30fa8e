"""Verification of DKIM signatures (RFC 6376 6.1, RFC 8301, RFC 8463). Called by the verifier, within its deadline.

Invariants: of a message SIGNATURES signatures are looked at, from the top, the rest is counted; each has one look-up of a key, all side by
side; body and header are digested natively in a thread, without the interpreter lock. Never raises but CoreError, when the message cannot
be read: a signature that says nonsense is neutral, and a broken one a fail.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from gatepost.message.fields import FieldPlace, HeaderView
from gatepost.native import DkimBody, dkim_header
from gatepost.policy.dns import Dns, DnsStatus
from gatepost.policy.mail_auth.dkim_signature import NAME, Key, Signature, key_of, signature_of, signed_fields
from gatepost.policy.mail_auth.results import Signed, Word
from gatepost.policy.mail_auth.tags import TagFault

SIGNATURES = 10
PIECE = 1 << 20
Body = tuple[bytes, int]
"""Digest, and octets of the whole canonical form."""


@dataclass(frozen=True, slots=True)
class Mail:
    """A received message: its header with the empty line, its size, and what reads (start, octets) of it, blocking."""

    header: bytes
    size: int
    read: Callable[[int, int], bytes]

    @property
    def body(self) -> int:
        """Where the body begins."""
        if self.header.startswith(b"\r\n"):
            return 2
        at = self.header.find(b"\r\n\r\n")
        return self.size if at < 0 else at + 4


class _Unfit(Exception):
    """Why a signature does not pass, as a word and a reason."""

    def __init__(self, word: Word, reason: str) -> None:
        super().__init__(reason)
        self.word, self.reason = word, reason


async def verify(dns: Dns, mail: Mail, threads: Executor, clock: Callable[[], float] = time.time) -> tuple[tuple[Signed, ...], int]:
    """What became of each signature, in order, and how many were not looked at. Raises CoreError."""
    view = HeaderView(mail.header)
    places = view.named([NAME])
    if not places:
        return (), 0
    found = [_parsed(mail.header, place, clock()) for place in places[:SIGNATURES]]
    good = [one for one in found if isinstance(one, Signature)]
    forms = list(dict.fromkeys(one.body_form for one in good))
    loop = asyncio.get_running_loop()
    keys, digests = await asyncio.gather(_keys(dns, good), loop.run_in_executor(threads, _bodies, mail, forms))
    bodies = dict(zip(forms, digests, strict=True))
    single = sum(place.name == "from" for place in view.places) == 1

    def judge() -> tuple[Signed, ...]:
        return tuple(_outcome(one, mail.header, view.places, keys, bodies, single=single) for one in found)

    return await loop.run_in_executor(threads, judge), len(places) - len(found)


def _parsed(header: bytes, place: FieldPlace, now: float) -> "Signature | Signed":
    try:
        signature = signature_of(header, place)
    except TagFault as fault:
        return Signed(Word.NEUTRAL, reason=str(fault))
    if "from" not in signature.names:
        return _signed(signature, Word.PERMERROR, "From is not signed")
    if signature.expires is not None and signature.expires < now:
        return _signed(signature, Word.FAIL, "expired")
    if signature.algorithm == "rsa-sha1":
        return _signed(signature, Word.POLICY, "SHA-1 is not taken (RFC 8301)")
    if signature.algorithm not in ("rsa-sha256", "ed25519-sha256"):
        return _signed(signature, Word.NEUTRAL, "unknown algorithm")
    return signature


def _signed(signature: Signature, word: Word, reason: str = "") -> Signed:
    return Signed(word, signature.domain, reason, signature.selector, signature.start)


async def _keys(dns: Dns, signatures: Sequence[Signature]) -> dict[str, "Key | _Unfit"]:
    """The key of each name, or why there is none."""
    names = list(dict.fromkeys(one.key_name for one in signatures))
    return dict(zip(names, await asyncio.gather(*(_key(dns, name) for name in names)), strict=True))


async def _key(dns: Dns, name: str) -> "Key | _Unfit":
    answer = await dns.txt(name)
    if answer.status is DnsStatus.TEMPORARY:
        return _Unfit(Word.TEMPERROR, answer.detail)
    fault = "no key"
    for text in answer.texts[:SIGNATURES]:
        try:
            return key_of(text)
        except TagFault as why:
            fault = str(why)
    return _Unfit(Word.PERMERROR, fault)


def _bodies(mail: Mail, forms: Sequence[tuple[bool, int | None]]) -> list[Body]:
    """*blocking* The digest of the body in each form."""
    body = DkimBody(forms)
    for start in range(mail.body, mail.size if forms else 0, PIECE):
        body.take(mail.read(start, min(PIECE, mail.size - start)))
    return body.finish()


def _outcome(
    one: "Signature | Signed",
    header: bytes,
    places: Sequence[FieldPlace],
    keys: dict[str, "Key | _Unfit"],
    bodies: dict[tuple[bool, int | None], Body],
    *,
    single: bool,
) -> Signed:
    if isinstance(one, Signed):
        return one
    try:
        key = keys[one.key_name]
        if isinstance(key, _Unfit):
            raise key
        _check_body(one, *bodies[one.body_form])
        _check_key(one, key)
        _check_octets(one, key, dkim_header(signed_fields(header, places, one), one.relaxed_header))
        _check_whole(one, bodies[one.body_form][1], single=single)
    except _Unfit as unfit:
        if isinstance(key, Key) and key.testing and unfit.word is Word.FAIL:
            return _signed(one, Word.NEUTRAL, f"{unfit.reason} (test key)")  # RFC 6376 3.6.1: as if it were not signed
        return _signed(one, unfit.word, unfit.reason)
    return _signed(one, Word.PASS, "test key" if key.testing else "")


def _check_body(signature: Signature, digest: bytes, length: int) -> None:
    if signature.length is not None and signature.length > length:
        raise _Unfit(Word.FAIL, "l= is more than the body has")
    if digest != signature.body_hash:
        raise _Unfit(Word.FAIL, "the body was changed")


def _check_key(signature: Signature, key: Key) -> None:
    if not key.octets:
        raise _Unfit(Word.PERMERROR, "the key was revoked")
    if signature.algorithm.partition("-")[0] != key.kind:
        raise _Unfit(Word.PERMERROR, "a key of another kind")
    if key.strict and signature.identity != signature.domain:
        raise _Unfit(Word.PERMERROR, "the key is for d= alone, and i= is below it")


def _check_octets(signature: Signature, key: Key, digest: bytes) -> None:
    from gatepost.policy.mail_auth.dkim_octets import fault_of  # `cryptography`: 40 ms, which the start of a worker does not wait for

    fault = fault_of(signature.octets, key, digest)
    if fault is not None:
        raise _Unfit(*fault)


def _check_whole(signature: Signature, length: int, *, single: bool) -> None:
    """What verifies, but says less than a reader would take it to say (RFC 6376 8.2, 8.15)."""
    if signature.length is not None and signature.length < length:
        raise _Unfit(Word.POLICY, f"{signature.length:,} of {length:,} octets of the body are signed")
    if not single:
        raise _Unfit(Word.POLICY, "several From fields")
