"""The protocol between Gatepost and a scanner plug-in: what a plug-in implements, gets, returns and raises.

A plug-in is a callable under the entry point group `gatepost.scanners`; the entry point's name is the `kind` of the settings. It takes
the scanner's settings and gives a `Scanner`. Whatever it raises, returns or leaves undone becomes the outcome `error`, never `clean`.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, TypeVar

from pydantic import BaseModel, ValidationError

from gatepost.config.scan import ScannerSettings
from gatepost.message.verdict import Answer
from gatepost.scan.facts import MailFacts
from gatepost.scan.scanners.blob import PartBlob

GROUP = "gatepost.scanners"

__all__ = [
    "GROUP",
    "Answer",
    "ContentRefused",
    "Factory",
    "MailFacts",
    "Outcome",
    "PartBlob",
    "ScanAnswer",
    "Scanner",
    "ScannerFault",
    "ScannerSettings",
    "options",
]


class Outcome(StrEnum):
    """What a scanner may say, mildest first."""

    CLEAN = "clean"
    ERROR = "error"
    SUSPICIOUS = "suspicious"
    INFECTED = "infected"


@dataclass(frozen=True, slots=True)
class ScanAnswer(Answer):
    """An Answer with what the journal does not keep.

    outcome: an `Outcome`; name: signature, symbols or fault; score: the scanner's own measure, finite, 0 when it has none.
    """

    signatures: str = ""
    """Version of the signatures that gave it; '' is unknown, and the answer is remembered for its time only."""
    fields: tuple[tuple[str, str], ...] = ()
    """Header fields the scanner adds: names and values of printable characters, without line ends. See scan/fields.py."""
    placed: tuple[tuple[str, str, int], ...] = ()
    """As `fields`, and behind how many fields of the message: 0 in front, 2 behind the second; -1 behind all, -2 before the last."""
    subject: str = ""
    """What the message's subject is to be instead; '' leaves it."""
    removes: tuple[tuple[str, int], ...] = ()
    """Header fields of the message that it takes away: a name, and which: 0 all, 1 the first, -1 the last."""
    outage: bool = False
    """With `error`: the scanner was not there or not in its right mind. False: it cannot judge this very content."""
    part: str = ""
    """Name of the part it is about; '' for the whole message or a part without a name."""


class ScannerFault(Exception):
    """The scanner cannot be reached, is too slow, or says what cannot be understood. Counts towards taking it out of service."""


class ContentRefused(Exception):
    """The scanner works, and will not judge this content (too large, for one). Does not count."""


class Scanner(Protocol):
    """One scanner. All methods are called on the worker's event loop: what blocks belongs into a thread."""

    @property
    def by_content(self) -> bool:
        """True when an answer depends on the octets and the signatures alone, so that it may be remembered."""

    @property
    def by_parts(self) -> bool:
        """True when it judges decoded parts rather than whole messages, unless the settings say."""

    async def scan(self, content: PartBlob, facts: MailFacts, deadline: float) -> ScanAnswer:
        """Judge `content` until `deadline` (the loop's time); then it is cancelled. Several run at once.

        Raises ScannerFault, ContentRefused. The answer's `scanner` is filled in by the pool.
        """

    async def probe(self, deadline: float) -> str:
        """Whether it works, without mail: returns the version of its signatures ('' unknown). Raises ScannerFault."""

    async def close(self) -> None:
        """Let go of connections and threads. Called once; nothing is asked afterwards."""


class Factory(Protocol):
    """What the entry point names."""

    def __call__(self, settings: ScannerSettings) -> Scanner:
        """Make a scanner without touching the network. Raises ValueError with 'key: problem' lines."""


M = TypeVar("M", bound=BaseModel)


def options(settings: ScannerSettings, model: type[M]) -> M:
    """`settings.options` as a model of the plug-in's own. Raises ValueError, a line 'options.key: problem (got …)' per fault."""
    try:
        return model.model_validate(settings.options)
    except ValidationError as fault:
        lines = []
        for one in fault.errors():
            key = ".".join(["options", *(str(part) for part in one["loc"])])
            problem = "unknown option" if one["type"] == "extra_forbidden" else one["msg"][:1].lower() + one["msg"][1:]
            lines.append(f"{key}: {problem} (got {one['input']!r})")
        raise ValueError("\n".join(lines)) from None
