"""A resolver that asks a real DNS server on loopback."""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from gatepost.delivery.resolver import Resolver
from support.delivery import make_settings
from support.dns import DnsStub, txt

Ask = Callable[..., tuple[Resolver, DnsStub]]


@pytest.fixture
def zone_of() -> Callable[[Mapping[str, str | Sequence[str]]], dict[tuple[str, str], list[str]]]:
    """{'far.test': 'v=spf1 -all', 'mx.far.test A': '192.0.2.1'} → what DnsStub wants; names without a type have TXT records."""

    def make(written: Mapping[str, str | Sequence[str]]) -> dict[tuple[str, str], list[str]]:
        made: dict[tuple[str, str], list[str]] = {}
        for key, value in written.items():
            name, _, kind = key.partition(" ")
            values = [value] if isinstance(value, str) else list(value)
            made[name, kind or "TXT"] = [txt(one) for one in values] if not kind else values
        return made

    return make


@pytest.fixture(scope="module")
def stub() -> Iterator[DnsStub]:
    with DnsStub({}) as server:
        yield server


@pytest_asyncio.fixture
async def ask(stub: DnsStub, zone_of: Callable[..., dict[tuple[str, str], list[str]]]) -> AsyncIterator[Ask]:
    """Has the module's server answer from a zone: (who is asked and remembers nothing yet, the server)."""
    async with AsyncExitStack() as resolvers:

        def start(written: Mapping[str, str | Sequence[str]], **more: Sequence[str]) -> tuple[Resolver, DnsStub]:
            stub.use(zone_of(written), **more)
            dns = {"nameservers": ["127.0.0.1"], "port": stub.port, "timeout_seconds": 0.4, "lifetime_seconds": 1.2}
            settings = make_settings(dns=dns)
            resolver = Resolver(lambda: settings)
            resolvers.push_async_callback(resolver.close)
            return resolver, stub

        yield start
