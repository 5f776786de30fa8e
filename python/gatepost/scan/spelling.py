"""Values of policy rules as administrators write them → as files and answers have them: case, a leading dot. Called by `policy` when a rule
is made.

Pure. A value that nothing could ever match is refused, since its rule would forbid nothing and nobody would notice: ValueError, whose
text names the value and what to write instead.
"""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator

from gatepost.message.address import AddressError, parse_address
from gatepost.native import analyse_name

_DIGEST = re.compile(r"[0-9a-f]{64}\Z")


def extension(text: str) -> str:
    """'.EXE' → 'exe', folded as extensions of files are."""
    bare = text.strip().removeprefix(".")
    if "." in bare:
        raise ValueError(f'an extension is what follows the last dot (got {text!r:.60}); for more of a name use names = ["*.{bare:.40}"]')
    found = analyse_name(f"x.{bare}")[1]
    if not found or "*" in bare or "?" in bare:
        raise ValueError(f"must be an extension, not a glob (got {text!r:.60})")
    return found


def digest(text: str) -> str:
    """A SHA-256 in hex."""
    lower = text.strip().lower()
    if not _DIGEST.match(lower):
        raise ValueError(f"must be a SHA-256, 64 hexadecimal digits (got {text!r:.80})")
    return lower


def glob(text: str) -> str:
    """A glob on what is always lower case."""
    if not text:
        raise ValueError("must not be empty")
    return text.lower()


def copy_address(text: str) -> str:
    """An address, or a local part of the postmaster's domain; empty is none."""
    if text:
        try:
            parse_address(text if "@" in text else f"{text}@example.org")
        except AddressError as fault:
            raise ValueError(f"must be an address or a local part: {fault} (got {text!r:.80})") from fault
    return text


Extension = Annotated[str, AfterValidator(extension)]
Digest = Annotated[str, AfterValidator(digest)]
LowerGlob = Annotated[str, AfterValidator(glob)]
CopyAddress = Annotated[str, AfterValidator(copy_address)]
Family = Literal["archive", "document", "executable", "script", "markup", "mail", "media", "text", "data"]
Defect = Literal[
    "damaged",
    "truncated",
    "unsupported",
    "too-large",
    "size-differs",
    "names-differ",
    "overlap",
    "unlisted",
    "prepended",
    "trailing",
    "escapes",
    "panicked",
]
