"""Transports for the SMTP client tests, closed at the end."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import uvloop

from gatepost.delivery.changes import RouteChanges
from gatepost.delivery.lmtp import LmtpTransport
from gatepost.delivery.next_hop import Own
from gatepost.delivery.resolver import Resolver
from gatepost.delivery.smtp import SmtpTransport
from gatepost.routing.model import RuleSet
from support.delivery import MESSAGE, MemoryReader, make_settings


@pytest.fixture
async def transport() -> AsyncIterator[Callable[..., SmtpTransport]]:
    """Makes transports; closes them after the test. Arguments: message, lmtp, secret, own, and sections of Settings."""
    made: list[SmtpTransport] = []
    resolvers: list[Resolver] = []

    def make(
        message: bytes = MESSAGE,
        *,
        lmtp: bool = False,
        secret: Any = None,
        own: Own | None = None,
        rules: RuleSet | None = None,
        changes: RouteChanges | None = None,
        **sections: Any,
    ) -> SmtpTransport:
        settings = make_settings(**sections)
        kind = LmtpTransport if lmtp else SmtpTransport
        resolvers.append(Resolver(lambda: settings))
        one = kind(
            lambda: settings,
            resolvers[-1],
            lambda _: MemoryReader(message),  # type: ignore[arg-type, return-value]
            secret=secret,
            own=lambda: own or Own(),
            changes=changes or (RouteChanges(lambda: rules, lambda: "here.test") if rules is not None else None),
        )
        made.append(one)
        return one

    yield make
    for one in made:
        await one.close()
    for resolver in resolvers:
        await resolver.close()


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Workers run on uvloop, the supervisor on asyncio's own loop: both must do."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
