"""The LMTP server: an SmtpServer whose sessions speak LHLO and answer the end of data once per accepted recipient (RFC 2033 4.2).

All recipients of a message share one commit, so they share its outcome; a recipient that is refused is refused at RCPT. AUTH and
submission do not exist here: who may connect is decided by address.
"""

from aiosmtpd.smtp import syntax

from gatepost.message.reply import Reply
from gatepost.server.context import Listener, ServerContext
from gatepost.server.smtp.connection import UNKNOWN
from gatepost.server.smtp.data import Messages
from gatepost.server.smtp.server import SmtpServer
from gatepost.server.smtp.session import Commands, error

NO_RECIPIENTS = Reply(503, "5.5.1", "no valid recipients")
"""RFC 2033 4.2 wants 503 here, where SMTP has 554."""
USE_LHLO = Reply(500, "5.5.1", "this is LMTP, say LHLO")


class LmtpSession(Messages):
    """One LMTP connection."""

    lmtp = True
    no_recipients = NO_RECIPIENTS

    @syntax("LHLO hostname")
    def smtp_LHLO(self, hostname: str) -> None:
        """RFC 2033 4.1: as EHLO."""
        Commands.smtp_EHLO(self, hostname)

    def smtp_HELO(self, hostname: str) -> None:
        """RFC 2033 4.1: must not be accepted."""
        raise error(USE_LHLO)

    def smtp_EHLO(self, hostname: str) -> None:
        """RFC 2033 4.1: must not be accepted."""
        raise error(USE_LHLO)

    def smtp_AUTH(self, arg: str) -> None:
        """Not offered."""
        raise error(UNKNOWN)

    def answer_message(self, reply: Reply, recipients: int) -> None:
        """One reply per recipient that RCPT accepted, in their order."""
        for _ in range(recipients):
            self.reply(reply)


class LmtpServer(SmtpServer):
    """The LMTP listener of one worker."""

    session_class = LmtpSession

    def __init__(self, context: ServerContext, listener: Listener | str = Listener.LMTP) -> None:
        super().__init__(context, listener)
