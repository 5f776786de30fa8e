"""SMTP replies (RFC 5321 4.2) with enhanced status codes (RFC 3463). Ours and a remote peer's are different types."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reply:
    """What we answer. `enhanced` is 'class.subject.detail' or '' where the standard forbids one (greeting, HELO, 354)."""

    code: int
    enhanced: str
    text: str

    @property
    def permanent(self) -> bool:
        """True for 5yz: the client must not repeat the command as it is."""
        return self.code >= 500

    def encode(self) -> bytes:
        """Wire form with CRLF; a text of several lines becomes a multi-line reply."""
        lead = f"{self.enhanced} " if self.enhanced else ""
        lines = self.text.split("\n")
        last = len(lines) - 1
        return "".join(f"{self.code}{'-' if n < last else ' '}{lead}{line}\r\n" for n, line in enumerate(lines)).encode("utf-8")


@dataclass(frozen=True, slots=True)
class RemoteReply:
    """What a peer answered us; `host` is 'name[address]:port'. Text is cut to 1,000 characters and has no line ends."""

    code: int
    enhanced: str
    text: str
    host: str
    command: str = ""


class SmtpError(Exception):
    """An exception that carries the reply the client will get."""

    def __init__(self, code: int, enhanced: str, text: str) -> None:
        super().__init__(text)
        self.reply = Reply(code, enhanced, text)
