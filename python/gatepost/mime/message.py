"""The values of `gatepost.mime`. Offsets are octets of the message; a limit bounds decoded octets."""

import asyncio
from dataclasses import dataclass
from functools import cached_property

from gatepost.native import MimeMessage, mime_decode

LIMIT = 64 << 20
"""Decoded octets that a call gives at most, unless it is told otherwise."""


@dataclass(frozen=True, slots=True)
class Defect:
    """What is wrong, and where it shows. The kinds are listed in docs/mime.md."""

    kind: str
    offset: int


@dataclass(frozen=True, slots=True)
class Field:
    """A header field; `value` is raw, folds included."""

    name: str
    value: bytes
    start: int
    value_start: int
    end: int


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the baseline reading. kind is 'leaf', 'multipart' or 'message'; header, body and end are offsets."""

    number: int
    parent: int | None
    kind: str
    header: int
    body: int
    end: int
    header_lines: int
    lines: int
    content_type: str
    encoding: str
    children: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Name:
    """A file name that some reader shows. source: 'disposition' or 'type'; how: what that reader does differently."""

    text: str
    source: str
    how: str


@dataclass(frozen=True, slots=True)
class Leaf:
    """A part without parts, as all readings together see it: names, types and decodings are candidates, likeliest first.

    `inside` numbers the decoded message that the offsets are of (an encoded message/rfc822); None is this message.
    """

    number: int
    readings: tuple[int, ...]
    header: int
    body: int
    end: int
    inside: int | None
    names: tuple[Name, ...]
    types: tuple[str, ...]
    disposition: str | None
    charset: str | None
    decodings: tuple[str, ...]
    depth: int


@dataclass(frozen=True, slots=True)
class Shown:
    """A leaf in a reading: the name (None: it has none) and the place of the decoding in `Leaf.decodings`."""

    leaf: int
    name: str | None
    decoding: int


@dataclass(frozen=True, slots=True)
class Reading:
    """How some reader sees the message; 0 is the baseline, label says what a reader does differently."""

    id: int
    label: str
    shown: tuple[Shown, ...]


@dataclass(frozen=True, slots=True)
class Attachment:
    """An attachment of the baseline. source is 'uuencode' or 'tnef' for a file within a part."""

    number: int
    names: tuple[str, ...]
    content_type: str
    source: str
    leaf: int


class Message:
    """A parsed message. What is asked for is converted once and kept."""

    __slots__ = ("__dict__", "native")

    def __init__(self, data: bytes) -> None:
        self.native = MimeMessage(data)

    @property
    def data(self) -> bytes:
        """The message as it came."""
        return self.native.data

    @property
    def ambiguous(self) -> bool:
        """Readers would see different parts, names or contents."""
        return self.native.ambiguous

    @property
    def incomplete(self) -> bool:
        """A cap was reached: there is more than the leaves show."""
        return self.native.incomplete

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """Parts of the baseline in the order of their header blocks; 0 is the message."""
        return tuple(
            Part(number, parent, kind, *places, *lines, content_type, encoding, tuple(children))
            for number, (parent, kind, places, lines, content_type, encoding, children) in enumerate(self.native.parts())
        )

    def fields(self, part: int = 0) -> list[Field]:
        """Header fields of a part. Raises InvalidError when there is no such part."""
        data = self.native.data
        return [
            Field(name.decode("latin-1"), data[value:value_end], start, value, end)
            for name, start, value, value_end, end in self.native.fields(part)
        ]

    @cached_property
    def defects(self) -> tuple[Defect, ...]:
        """All defects by offset."""
        return tuple(Defect(kind, offset) for kind, offset in self.native.defects())

    @cached_property
    def leaves(self) -> tuple[Leaf, ...]:
        """Leaves of all readings, each once."""
        return tuple(
            Leaf(
                number,
                tuple(readings),
                *places[:2],
                places[3],
                inside,
                tuple(Name(*name) for name in names),
                tuple(types),
                disposition,
                charset,
                tuple(how or method for method, how in decodings),
                depth,
            )
            for number, (readings, places, inside, names, types, disposition, charset, decodings, depth) in enumerate(self.native.leaves())
        )

    @cached_property
    def readings(self) -> tuple[Reading, ...]:
        """All readings; more than one makes the message ambiguous."""
        leaves = self.leaves

        def shown(leaf: int, name: int, decoding: int) -> Shown:
            names = leaves[leaf].names
            return Shown(leaf, names[name].text if names else None, decoding)

        return tuple(Reading(number, label, tuple(shown(*one) for one in found)) for number, label, found in self.native.readings())

    def decode(self, leaf: int, decoding: int = 0, limit: int = LIMIT) -> bytes:
        """Octets of a leaf, cut at `limit`. Raises InvalidError when there is no such leaf or decoding."""
        return self.native.decode(leaf, decoding, limit)[0]

    @property
    def attachments(self) -> tuple[Attachment, ...]:
        """Attachments of the baseline, files in uuencode and TNEF too."""
        found = enumerate(self.native.attachments(LIMIT))
        return tuple(Attachment(number, tuple(names), kind, source, leaf) for number, (names, kind, source, leaf) in found)

    def content(self, attachment: Attachment, limit: int = LIMIT) -> bytes:
        """Octets of an attachment, cut at `limit`."""
        return self.native.attachment(attachment.number, limit)[0]

    def text(self, limit: int = LIMIT) -> str | None:
        """The plain text, decoded; None when there is none."""
        return self.native.text(limit)

    def html(self, limit: int = LIMIT) -> str | None:
        """The HTML, decoded; None when there is none."""
        return self.native.html(limit)

    def contents(self, limit: int = LIMIT) -> list[str | bytes]:
        """What each leaf of the baseline holds, in order: texts as characters, all else as octets; cut at `limit` octets in all."""
        return self.native.contents(limit)

    def preview(self, characters: int = 200) -> str:
        """What a list of messages shows beside the subject."""
        return self.native.preview(characters)

    def section(self, text: str) -> bytes | None:
        """IMAP's BODY[text]; None when there is no such part. Raises InvalidError when it is no section specification."""
        return self.native.section(text)


def parse(data: bytes) -> Message:
    """Read a message in all plausible ways. Releases the interpreter lock for big messages."""
    return Message(data)


async def parse_in_thread(data: bytes) -> Message:
    """The same off the event loop."""
    return await asyncio.to_thread(Message, data)


def decode(encoding: str, data: bytes) -> bytes:
    """Undo a transfer encoding as lenient readers do. Raises InvalidError for an unknown one."""
    return mime_decode(encoding, data)
