"""SMTP command arguments: paths, ESMTP parameters, xtext, BDAT sizes.

Called by server/smtp with the text behind the verb. Pure. A fault is an SmtpError that carries the reply (501, 553, 555 …), so the
caller has nothing to decide. Every value has a cap; the line itself was bounded by the caller.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

from gatepost.message.address import Address, AddressError, parse_address
from gatepost.message.envelope import Notify
from gatepost.message.reply import SmtpError

MAX_ENVID = 100
"""RFC 3461 4.4."""
MAX_ORCPT = 500
"""RFC 3461 4.2."""
MAX_SIZE_DIGITS = 20
"""RFC 1870 section 4."""
MAX_PARAMETERS = 16

_SIMPLE_PATH = re.compile(r" *<([^<>\"\\,: ]*)>(?: +(.*))?\Z")
_PARAMETER = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([\x21-\x3c\x3e-\x7e\u0080-\U0010ffff]*))?\Z")
_XTEXT = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*\Z")
_HEXCHAR = re.compile(r"\+([0-9A-F]{2})")
_UNITEXT = re.compile(r"\\x\{([0-9A-F]{2,6})\}")
_ADDRESS_TYPE = re.compile(r"[A-Za-z0-9-]{1,40}\Z")
_HELO = re.compile(r"[^\x00-\x20\x7f()<>@,;\\\"]{1,255}\Z")


@dataclass(frozen=True, slots=True)
class MailParameters:
    """What may follow MAIL FROM (RFC 1870, 6152, 6531, 3461). AUTH= is checked and dropped: nobody may vouch for another user here."""

    size: int = 0
    body: str = "7BIT"
    smtputf8: bool = False
    ret: str = ""
    envid: str = ""


@dataclass(frozen=True, slots=True)
class RcptParameters:
    """What may follow RCPT TO (RFC 3461). orcpt is 'type;address', decoded."""

    notify: Notify = Notify.UNSET
    orcpt: str = ""


NO_MAIL_PARAMETERS = MailParameters()
NO_RCPT_PARAMETERS = RcptParameters()


def decode_argument(octets: bytes) -> str:
    """Text behind the verb. Octets that are not UTF-8 are refused here, so nothing behind has to expect surrogates."""
    try:
        return octets.decode("utf-8")
    except UnicodeDecodeError:
        raise SmtpError(501, "5.5.2", "argument is not valid UTF-8") from None


def split_path(argument: str, keyword: str) -> tuple[str, str]:
    """'FROM:<path> parameters' → (path without brackets and source route, parameters). keyword is 'FROM:' or 'TO:'."""
    length = len(keyword)
    if argument[:length].upper() != keyword:
        raise SmtpError(501, "5.5.4", f"syntax: {'MAIL' if keyword == 'FROM:' else 'RCPT'} {keyword}<address>")
    simple = _SIMPLE_PATH.match(argument, length)
    if simple:
        return simple[1], simple[2] or ""
    text = argument[length:].lstrip(" ")
    if not text.startswith("<"):
        raise SmtpError(501, "5.5.4", "address must be enclosed in <>")
    end = _closing_bracket(text)
    rest = text[end + 1 :]
    if rest and not rest.startswith(" "):
        raise SmtpError(501, "5.5.4", "syntax error behind the address")
    return _without_route(text[1:end]), rest.strip(" ")


def _closing_bracket(text: str) -> int:
    """Place of the '>' that ends the path: the first one outside of a quoted string."""
    quoted = False
    position = 1
    while position < len(text):
        character = text[position]
        if quoted and character == "\\":
            position += 1
        elif character == '"':
            quoted = not quoted
        elif character == ">" and not quoted:
            return position
        position += 1
    raise SmtpError(501, "5.5.4", "address must be enclosed in <>")


def _without_route(path: str) -> str:
    """RFC 5321 4.1.1.3 and appendix C: a source route is accepted, stripped and otherwise ignored."""
    if not path.startswith("@"):
        return path
    route, colon, mailbox = path.partition(":")
    if not colon or not all(hop.startswith("@") and len(hop) > 1 for hop in route.split(",")):
        raise SmtpError(501, "5.1.3", "source route is not valid")
    return mailbox


def parse_mailbox(path: str, what: str) -> Address:
    """A Mailbox, or 553 5.1.3 (recipient) or 553 5.1.7 (sender); `what` is 'sender' or 'recipient'."""
    try:
        return parse_address(path, lenient_dot=True)
    except AddressError as error:
        raise SmtpError(553, "5.1.7" if what == "sender" else "5.1.3", f"{what} address: {error}") from None


@dataclass(frozen=True, slots=True)
class MailArgument:
    """MAIL FROM:<path> parameters, parsed. `sender` is None for the null reverse-path; `text` is its wire form."""

    sender: Address | None
    text: str
    parameters: MailParameters
    extended: bool
    """Parameters were given, so EHLO is needed (RFC 5321 4.1.1.11)."""


@dataclass(frozen=True, slots=True)
class RcptArgument:
    """RCPT TO:<path> parameters, parsed. `path` is kept for <postmaster>, whose `mailbox` is None."""

    path: str
    mailbox: Address | None
    text: str
    parameters: RcptParameters
    extended: bool


@lru_cache(maxsize=4096)
def parse_mail(argument: str) -> MailArgument:
    """All of MAIL's argument. Remembered, since mail comes in runs; refusals are not."""
    path, text = split_path(argument, "FROM:")
    parameters = parse_mail_parameters(text)
    sender = parse_mailbox(path, "sender") if path else None
    return MailArgument(sender, "" if sender is None else str(sender), parameters, bool(text))


@lru_cache(maxsize=4096)
def parse_rcpt(argument: str) -> RcptArgument:
    """All of RCPT's argument. Remembered, since mail comes in runs; refusals are not."""
    path, text = split_path(argument, "TO:")
    parameters = parse_rcpt_parameters(text)
    if not path:
        raise SmtpError(501, "5.1.3", "recipient address is empty")
    mailbox = None if path.lower() == "postmaster" else parse_mailbox(path, "recipient")
    return RcptArgument(path, mailbox, path if mailbox is None else str(mailbox), parameters, bool(text))


def _split_parameters(text: str) -> dict[str, str | None]:
    """'A=1 B' → {'A': '1', 'B': None}. Keywords are folded to upper case; a repeated one is an error."""
    found: dict[str, str | None] = {}
    for word in text.split(" "):
        if not word:
            continue
        match = _PARAMETER.match(word)
        if not match or len(found) >= MAX_PARAMETERS:
            raise SmtpError(501, "5.5.4", "syntax error in parameters")
        keyword = match[1].upper()
        if keyword in found:
            raise SmtpError(501, "5.5.4", f"parameter {keyword} given twice")
        found[keyword] = match[2]
    return found


@lru_cache(maxsize=1024)
def parse_mail_parameters(text: str) -> MailParameters:
    """Parameters of MAIL. 501 for a bad value, 555 for an unknown keyword."""
    if not text:
        return NO_MAIL_PARAMETERS
    found = _split_parameters(text)
    if "AUTH" in found:
        _check_auth(found.pop("AUTH"))
    smtputf8 = "SMTPUTF8" in found
    if found.pop("SMTPUTF8", None) is not None:
        raise SmtpError(501, "5.5.4", "SMTPUTF8 takes no value")
    parameters = MailParameters(
        size=_size(found.pop("SIZE")) if "SIZE" in found else 0,
        body=_choice("BODY", found.pop("BODY"), ("7BIT", "8BITMIME")) if "BODY" in found else "7BIT",
        smtputf8=smtputf8,
        ret=_choice("RET", found.pop("RET"), ("FULL", "HDRS")) if "RET" in found else "",
        envid=_envid(found.pop("ENVID")) if "ENVID" in found else "",
    )
    _refuse_unknown(found, "MAIL")
    return parameters


def parse_rcpt_parameters(text: str) -> RcptParameters:
    """Parameters of RCPT. 501 for a bad value, 555 for an unknown keyword."""
    if not text:
        return NO_RCPT_PARAMETERS
    found = _split_parameters(text)
    parameters = RcptParameters(
        notify=_notify(found.pop("NOTIFY")) if "NOTIFY" in found else Notify.UNSET,
        orcpt=_orcpt(found.pop("ORCPT")) if "ORCPT" in found else "",
    )
    _refuse_unknown(found, "RCPT")
    return parameters


def _refuse_unknown(rest: dict[str, str | None], verb: str) -> None:
    if rest:
        raise SmtpError(555, "5.5.4", f"{verb} parameter {next(iter(rest))} is not known")


def _size(value: str | None) -> int:
    if not value or not value.isascii() or not value.isdigit() or len(value) > MAX_SIZE_DIGITS:
        raise SmtpError(501, "5.5.4", "SIZE must be a number of octets")
    return int(value)


def _choice(keyword: str, value: str | None, known: tuple[str, ...]) -> str:
    if value is None or value.upper() not in known:
        raise SmtpError(501, "5.5.4", f"{keyword} must be {' or '.join(known)}")
    return value.upper()


def _envid(value: str | None) -> str:
    """RFC 3461 4.4: xtext of at most 100 characters that stands for printable US-ASCII."""
    if not value or len(value) > MAX_ENVID:
        raise SmtpError(501, "5.5.4", "ENVID must be 1 to 100 characters of xtext")
    text = decode_xtext("ENVID", value)
    if not text.isascii() or not text.isprintable():
        raise SmtpError(501, "5.5.4", "ENVID must stand for printable characters")
    return text


def _notify(value: str | None) -> Notify:
    """RFC 3461 4.1: NEVER alone, or a list of SUCCESS, FAILURE, DELAY."""
    words = value.upper().split(",") if value else []
    if words == ["NEVER"]:
        return Notify.NEVER
    if not words or len(set(words)) != len(words) or not set(words) <= {"SUCCESS", "FAILURE", "DELAY"}:
        raise SmtpError(501, "5.5.4", "NOTIFY must be NEVER or a list of SUCCESS, FAILURE, DELAY")
    flags = Notify.UNSET
    for word in words:
        flags |= Notify[word]
    return flags


def _orcpt(value: str | None) -> str:
    """RFC 3461 4.2 and RFC 6533 3: 'type;xtext', decoded."""
    kind, semicolon, encoded = (value or "").partition(";")
    if not semicolon or not encoded or len(value or "") > MAX_ORCPT or not _ADDRESS_TYPE.match(kind):
        raise SmtpError(501, "5.5.4", "ORCPT must be type;address")
    if kind.lower() == "utf-8":
        return f"utf-8;{_decode_unitext(encoded)}"
    address = decode_xtext("ORCPT", encoded)
    if not address.isprintable():
        raise SmtpError(501, "5.5.4", "ORCPT must stand for printable characters")
    return f"{kind.lower()};{address}"


def _decode_unitext(encoded: str) -> str:
    r"""utf-8-addr-xtext and utf-8-addr-unitext: '\x{HEX}' stands for one character; xtext escapes do not occur."""
    try:
        address = _UNITEXT.sub(lambda match: chr(int(match[1], 16)), encoded)
        address.encode()
    except (ValueError, OverflowError):
        raise SmtpError(501, "5.5.4", "ORCPT holds a character that does not exist") from None
    if not address.isprintable():
        raise SmtpError(501, "5.5.4", "ORCPT must stand for printable characters")
    return address


def _check_auth(value: str | None) -> None:
    """RFC 4954 section 5: '<>' or an xtext mailbox."""
    if not value or len(value) > MAX_ORCPT:
        raise SmtpError(501, "5.5.4", "AUTH must be <> or an address")
    decode_xtext("AUTH", value)


def decode_xtext(keyword: str, value: str) -> str:
    """RFC 3461 section 4 xtext. '+XX' are octets, taken as UTF-8."""
    if "+" not in value and value.isascii():
        return value
    if not _XTEXT.match(value):
        raise SmtpError(501, "5.5.4", f"{keyword} is not valid xtext")
    octets = _HEXCHAR.sub(lambda match: chr(int(match[1], 16)), value).encode("latin-1")
    try:
        return octets.decode("utf-8")
    except UnicodeDecodeError:
        raise SmtpError(501, "5.5.4", f"{keyword} is not valid xtext") from None


def parse_helo(argument: str) -> str:
    """Name given in HELO, EHLO, LHLO. Lenient, since real names break the rules, but fit to stand in a header field."""
    name = argument.strip(" ")
    if not _HELO.match(name) or not name.isascii():
        raise SmtpError(501, "5.5.4", "a host name or address literal is needed")
    return name


def parse_bdat(argument: str) -> tuple[int, bool]:
    """'n' or 'n LAST' (RFC 3030 section 2) → (octets, is last)."""
    words = argument.split()
    if not 1 <= len(words) <= 2 or not words[0].isascii() or not words[0].isdigit() or len(words[0]) > MAX_SIZE_DIGITS:
        raise SmtpError(501, "5.5.4", "syntax: BDAT size [LAST]")
    if len(words) == 2 and words[1].upper() != "LAST":
        raise SmtpError(501, "5.5.4", "syntax: BDAT size [LAST]")
    return int(words[0]), len(words) == 2
