"""AUTH (RFC 4954): carries SASL exchanges between the client's lines and directory's Authenticator.

The mechanisms themselves are sans-IO in directory/sasl.py. Plain-text mechanisms are not offered without TLS unless the settings allow it.
Failures are counted; the third ends the session, on top of the Authenticator's own delays.
"""

import base64
import binascii

from aiosmtpd.smtp import syntax

from gatepost.directory import Challenge, Failure, SaslExchange, Success
from gatepost.message.reply import Reply, SmtpError
from gatepost.server.smtp.connection import CLOSING
from gatepost.server.smtp.data import Messages
from gatepost.server.smtp.session import NEED_HELO, NESTED, error

MAX_FAILURES = 3
MAX_STEPS = 8
OK_AUTH = b"235 2.7.0 authenticated\r\n"
TWICE = Reply(503, "5.5.1", "authenticated already")
CANCELLED = Reply(501, "5.7.0", "authentication cancelled")
BAD_BASE64 = Reply(501, "5.5.2", "base64 is not valid")
NOT_OFFERED = Reply(504, "5.5.4", "authentication mechanism is not offered")
NEEDS_TLS = Reply(538, "5.7.11", "this authentication mechanism needs TLS, use STARTTLS first")
BAD_CREDENTIALS = Reply(535, "5.7.8", "authentication failed")
TRY_LATER = Reply(454, "4.7.0", "temporary authentication failure, try again later")


def decode_response(text: str) -> bytes:
    """A line of base64 from the client; '*' cancels (RFC 4954 section 4)."""
    if text == "*":
        raise error(CANCELLED)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise error(BAD_BASE64) from None


class SmtpSession(Messages):
    """All of SMTP and submission."""

    auth_failures = 0

    @syntax("AUTH mechanism [initial-response]")
    async def smtp_AUTH(self, arg: str) -> None:
        """RFC 4954 section 4."""
        words = arg.split()
        if not 1 <= len(words) <= 2:
            raise SmtpError(501, "5.5.4", "syntax: AUTH mechanism [initial-response]")
        if self.session.host_name is None:
            raise error(NEED_HELO)
        if self.session.user:
            raise error(TWICE)
        if self.envelope is not None:
            raise error(NESTED)
        exchange = self._begin_exchange(words[0].upper())
        first = None
        if len(words) == 2:
            first = b"" if words[1] == "=" else decode_response(words[1])
        await self._run_exchange(exchange, first)

    def _begin_exchange(self, mechanism: str) -> SaslExchange:
        auth = self.server.context.auth
        if mechanism not in auth.mechanisms(bool(self.tls)):
            raise error(NEEDS_TLS if not self.tls and mechanism in auth.mechanisms(True) else NOT_OFFERED)
        return auth.sasl(mechanism, tls=bool(self.tls), channel=self.client)

    async def _run_exchange(self, exchange: SaslExchange, response: bytes | None) -> None:
        for _ in range(MAX_STEPS):
            result = await exchange.step(response)
            if isinstance(result, Success):
                await self._succeed(result)
                return
            if isinstance(result, Failure):
                self._fail(result)
                return
            response = await self._challenge(result)
        raise error(BAD_CREDENTIALS)

    async def _challenge(self, challenge: Challenge) -> bytes:
        self.send(b"334 " + base64.b64encode(challenge.data) + b"\r\n")
        return decode_response(await self.read_line())

    async def _succeed(self, success: Success) -> None:
        """Data that comes with success travels as one more challenge, which the client answers with nothing (RFC 4954 section 4)."""
        if success.final and await self._challenge(Challenge(success.final)):
            raise error(BAD_CREDENTIALS)
        self.session.user = success.user
        self.session.authenticated = True
        self.session.trusted = True
        self.server.log.info("authenticated", user=success.user, client=self.client, listener=self.server.listener)
        self.send(OK_AUTH)

    def _fail(self, failure: Failure) -> None:
        self.server.log.info("authentication failed", client=self.client, reason=failure.reason)
        self.auth_failures += 1
        self.reply(TRY_LATER if failure.temporary else BAD_CREDENTIALS)
        if self.auth_failures >= MAX_FAILURES:
            self.close_with(CLOSING)
