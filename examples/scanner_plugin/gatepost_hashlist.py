"""A scanner plug-in: content whose SHA-256 stands in a file is infected. The file has a digest in hex and a name on each line."""

import hashlib
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from gatepost.scan.scanners.plugin import MailFacts, PartBlob, ScanAnswer, Scanner, ScannerFault, ScannerSettings, options


class Options(BaseModel):
    """`[scan.scanners.options]` of this kind."""

    model_config = ConfigDict(extra="forbid")

    suspicious: bool = False
    """Call it suspicious rather than infected."""


class HashList:
    """Scanner of one file; `address` in the settings is its path."""

    by_content = True  # the same octets get the same answer as long as the file is the same, so answers may be remembered
    by_parts = True  # digests of attachments, not of whole messages

    def __init__(self, settings: ScannerSettings) -> None:
        self._file = Path(settings.address)
        self._outcome = "suspicious" if options(settings, Options).suspicious else "infected"
        self._names: dict[str, str] = {}
        self._version = ""

    async def scan(self, content: PartBlob, facts: MailFacts, deadline: float) -> ScanAnswer:
        """`content.chunks()` would give the octets; here the digest says it all."""
        name = self._names.get(content.sha256)
        return ScanAnswer("", self._outcome if name else "clean", name or "", signatures=self._version)

    async def probe(self, deadline: float) -> str:
        """Read the list again. A file that cannot be read takes this scanner out of service until it can."""
        try:
            text = self._file.read_text()
        except OSError as fault:
            raise ScannerFault(f"{self._file}: {fault.strerror}") from fault
        self._names = dict(line.split(maxsplit=1) for line in text.splitlines() if " " in line)
        self._version = hashlib.sha256(text.encode()).hexdigest()[:12]
        return self._version

    async def close(self) -> None:
        """Nothing is open."""


def make(settings: ScannerSettings) -> Scanner:
    """What the entry point names. Raises ValueError with 'key: problem' for settings that cannot work."""
    if not settings.address:
        raise ValueError("address: must be the path of the list (got '')")
    return HashList(settings)
