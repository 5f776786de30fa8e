"""xtext and the address forms of DSN parameters (RFC 3461 4, RFC 6533 3). Pure."""

import re

_PLAIN = re.compile(r"[!-*,-<>-~]*")
_UNSAFE = re.compile(r"[^!-*,-<>-~]")
_UNITEXT_UNSAFE = re.compile(r"[^!-*,-<>-\[\]-~]")


def encode_xtext(text: str) -> str:
    """ASCII text as xtext: '+' '=' and anything outside of '!'…'~' become '+XX' (RFC 3461 4). Non-ASCII goes by its UTF-8 octets."""
    if _PLAIN.fullmatch(text):
        return text
    return _UNSAFE.sub(lambda found: "".join(f"+{octet:02X}" for octet in found[0].encode("utf-8", "replace")), text)


def encode_orcpt(orcpt: str, utf8: bool) -> str:
    """'type;address' (decoded) as the value of ORCPT. A non-ASCII address becomes utf-8-addr-xtext unless `utf8` (RFC 6533 3)."""
    kind, _, address = orcpt.partition(";")
    if address.isascii():
        return f"{kind};{encode_xtext(address)}"
    if utf8:
        return f"utf-8;{_UNITEXT_ASCII.sub(_embedded, address)}"
    return f"utf-8;{_UNITEXT_UNSAFE.sub(_embedded, address)}"


_UNITEXT_ASCII = re.compile(r"[\x00- +=\\\x7f]")


def _embedded(found: re.Match[str]) -> str:
    return f"\\x{{{ord(found[0]):X}}}"
