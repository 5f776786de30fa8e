"""What the verification of senders would find about the mail of a question: asked of the DNS, with the message that was given.

Called by RulesetsService.ExplainMail before it asks the rules. Uses policy/mail_auth as the servers do. Nothing is sent but look-ups; a DNS
that does not answer is a temperror after the deadline of live mail.
"""

from collections.abc import Callable

from gatepost.config import Settings
from gatepost.control.explain import Asked, is_trusted
from gatepost.delivery.resolver import Resolver
from gatepost.policy.mail_auth import Authentication, Mail, Results
from gatepost.routing.model import RuleSet
from gatepost.routing.stages import verifies


class Origins:
    """One per server: keeps a resolver, whose answers are remembered as long as they hold."""

    def __init__(self, settings: Callable[[], Settings]) -> None:
        self._settings = settings
        self._authentication = Authentication(Resolver(settings), lambda: settings().authentication.timeout_seconds)

    async def of(self, rules: RuleSet, asked: Asked) -> Results | None:
        """None when nothing is verified, or too little is known of the question. Raises ControlError for what is no address."""
        settings = self._settings()
        if not (asked.client_address and verifies(rules, settings.authentication.verify)) or asked.user:
            return None
        trusted = asked.assume_trusted if asked.assume_trusted is not None else is_trusted(settings, rules, asked.client).trusted
        if trusted:
            return None
        spf = await self._authentication.spf(asked.client_address, asked.helo, asked.client.sender or "")
        if not asked.message:
            return Results(spf)
        return await self._authentication.content(_mail(asked.message), spf)


def _mail(message: bytes) -> Mail:
    """A file may have the line ends of this machine; over SMTP they are CRLF."""
    octets = message if b"\r\n" in message else message.replace(b"\n", b"\r\n")
    end = octets.find(b"\r\n\r\n")
    header = octets if end < 0 else octets[: end + 4]
    return Mail(header, len(octets), lambda start, length: octets[start : start + length])
