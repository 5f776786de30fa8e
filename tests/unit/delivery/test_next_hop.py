"""Resolver and next hops against a real DNS server on loopback."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from gatepost.delivery.next_hop import NextHops, NoRoute, Own, address_literal, is_local_address
from gatepost.delivery.resolver import Resolver
from gatepost.policy.dns import DnsStatus
from gatepost.queue.transport import Deferred, Failed
from gatepost.routing.model import Route, RouteKind
from support.delivery import make_settings
from support.dns import DnsStub, Zone

ZONE: Zone = {
    ("ordered.test", "MX"): ["20 second.test.", "10 first.test.", "30 third.test."],
    ("equal.test", "MX"): ["10 first.test.", "10 second.test.", "10 third.test."],
    ("first.test", "A"): ["192.0.2.1"],
    ("first.test", "AAAA"): ["2001:db8::1"],
    ("second.test", "A"): ["192.0.2.2"],
    ("third.test", "A"): ["192.0.2.3"],
    ("implicit.test", "A"): ["192.0.2.9"],
    ("null.test", "MX"): ["0 ."],
    ("nothing.test", "TXT"): ["'x'"],
    ("dangling.test", "MX"): ["10 nowhere.test."],
    ("half.test", "MX"): ["10 nowhere.test.", "20 second.test."],
    ("shaky.test", "MX"): ["10 broken.test."],
    ("we.test", "MX"): ["10 first.test.", "20 us.test.", "20 second.test.", "30 third.test."],
    ("onlywe.test", "MX"): ["10 us.test.", "20 second.test."],
    ("us.test", "A"): ["192.0.2.77"],
    ("alias.test", "CNAME"): ["ordered.test."],
    ("xn--bcher-kva.test", "MX"): ["5 first.test."],
}

Make = Callable[..., tuple[NextHops, Resolver, DnsStub]]


@pytest.fixture
def hops() -> Iterator[Make]:
    with ExitStack() as stack:

        def make(own: Own | None = None, **delivery: Any) -> tuple[NextHops, Resolver, DnsStub]:
            stub = stack.enter_context(DnsStub(ZONE, failing=["broken.test", "servfail.test"]))
            dns = {"nameservers": ("127.0.0.1",), "port": stub.port, "timeout_seconds": 1, "lifetime_seconds": 2}
            settings = make_settings(delivery={"mx_port": 2525, **delivery}, dns=dns)
            resolver = Resolver(lambda: settings)
            return NextHops(lambda: settings, resolver, lambda: own or Own()), resolver, stub

        yield make


def route(domain: str, **more: Any) -> Route:
    return Route(RouteKind.SMTP, f"user@{domain}", **more)


async def hosts(hops: NextHops, domain: str) -> list[str]:
    return [peer.host for peer in await hops.find(route(domain))]


async def refusal(hops: NextHops, domain: str) -> Deferred | Failed:
    with pytest.raises(NoRoute) as caught:
        await hops.find(route(domain))
    return caught.value.outcome


async def test_exchangers_come_in_order_of_preference_with_both_families(hops: Make) -> None:
    find, _, _ = hops()
    peers = await find.find(route("ordered.test"))
    assert [(peer.host, peer.address, peer.port) for peer in peers] == [
        ("first.test", "2001:db8::1", 2525),
        ("first.test", "192.0.2.1", 2525),
        ("second.test", "192.0.2.2", 2525),
        ("third.test", "192.0.2.3", 2525),
    ]


async def test_ipv4_comes_first_when_preferred_and_alone_with_an_ipv4_source(hops: Make) -> None:
    find, _, _ = hops(prefer_ipv4=True)
    assert (await find.find(route("ordered.test")))[0].address == "192.0.2.1"
    find, _, _ = hops(source_address="127.0.0.1")
    assert all(":" not in peer.address for peer in await find.find(route("ordered.test")))


async def test_exchangers_of_equal_preference_are_shuffled(hops: Make) -> None:
    find, _, _ = hops()
    assert len({(await hosts(find, "equal.test"))[-1] for _ in range(60)}) > 1


async def test_without_mx_the_host_itself_takes_mail(hops: Make) -> None:
    find, _, _ = hops()
    assert await hosts(find, "implicit.test") == ["implicit.test"]


async def test_an_alias_leads_to_the_exchangers_of_its_target(hops: Make) -> None:
    find, _, _ = hops()
    assert (await hosts(find, "alias.test"))[0] == "first.test"


async def test_a_domain_beyond_ascii_is_asked_for_as_a_labels(hops: Make) -> None:
    find, _, stub = hops()
    assert await hosts(find, "bücher.test") == ["first.test", "first.test"]
    assert ("xn--bcher-kva.test", "MX") in stub.questions


async def test_a_sharp_s_is_not_taken_for_two(hops: Make) -> None:
    find, _, stub = hops()
    with pytest.raises(NoRoute):
        await hosts(find, "straße.test")
    assert {name for name, _ in stub.questions} == {"xn--strae-oqa.test"}


@pytest.mark.parametrize(
    ("domain", "enhanced"),
    [("null.test", "5.1.10"), ("missing.test", "5.1.2"), ("nothing.test", "5.1.2"), ("dangling.test", "5.4.4"), ("[1.2.3]", "5.1.2")],
)
async def test_permanent_dns_answers_fail(hops: Make, domain: str, enhanced: str) -> None:
    find, _, _ = hops()
    outcome = await refusal(find, domain)
    assert isinstance(outcome, Failed)
    assert outcome.enhanced == enhanced


@pytest.mark.parametrize("domain", ["servfail.test", "shaky.test"])
async def test_servfail_defers(hops: Make, domain: str) -> None:
    find, _, _ = hops()
    outcome = await refusal(find, domain)
    assert isinstance(outcome, Deferred)
    assert (outcome.enhanced, outcome.destination_down) == ("4.4.3", True)


async def test_a_silent_name_server_defers_within_the_lifetime(hops: Make) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        dns = {"nameservers": ("127.0.0.1",), "port": silent.getsockname()[1], "timeout_seconds": 0.1, "lifetime_seconds": 0.3}
        settings = make_settings(dns=dns)
        async with asyncio.timeout(2):
            outcome = await refusal(NextHops(lambda: settings, Resolver(lambda: settings), Own), "x.test")
    assert isinstance(outcome, Deferred)
    assert "timed out" in outcome.reason


async def test_an_exchanger_without_an_address_is_passed_over(hops: Make) -> None:
    find, _, _ = hops()
    assert await hosts(find, "half.test") == ["second.test"]


async def test_we_never_pass_mail_to_ourselves_nor_to_our_equals(hops: Make) -> None:
    for own in (Own(frozenset({"us.test"})), Own(endpoints=frozenset({("192.0.2.77", 2525)}))):
        find, _, _ = hops(own)
        assert set(await hosts(find, "we.test")) == {"first.test"}
        outcome = await refusal(find, "onlywe.test")
        assert isinstance(outcome, Failed)
        assert outcome.enhanced == "5.4.6"
    find, _, _ = hops(Own(endpoints=frozenset({("192.0.2.77", 25)})))  # another port is another server
    assert "us.test" in await hosts(find, "we.test")


async def test_an_address_literal_needs_no_dns(hops: Make) -> None:
    find, _, stub = hops()
    (peer,) = await find.find(route("[192.0.2.5]"))
    assert (peer.address, peer.port) == ("192.0.2.5", 2525)
    (peer,) = await find.find(route("[IPv6:2001:db8::5]"))
    assert peer.address == "2001:db8::5"
    assert not stub.questions
    find, _, _ = hops(Own(endpoints=frozenset({("0.0.0.0", 2525)})))
    outcome = await refusal(find, "[127.0.0.1]")
    assert outcome.enhanced == "5.4.6"


async def test_a_gateway_is_looked_up_by_address_records_and_its_absence_is_temporary(hops: Make) -> None:
    find, _, stub = hops()
    peers = await find.find(route("x.test", host="first.test", port=26))
    assert {(peer.host, peer.port) for peer in peers} == {("first.test", 26)}
    assert ("first.test", "MX") not in stub.questions
    with pytest.raises(NoRoute) as caught:
        await find.find(route("x.test", host="missing.test"))
    assert isinstance(caught.value.outcome, Deferred)


async def test_answers_are_kept_and_equal_questions_asked_once(hops: Make) -> None:
    _, resolver, stub = hops()
    answers = await asyncio.gather(*(resolver.mx("ordered.test") for _ in range(10)))
    assert {answer.status for answer in answers} == {DnsStatus.FOUND}
    await resolver.mx("Ordered.Test")
    assert stub.questions.count(("ordered.test", "MX")) == 1
    for _ in range(3):
        assert (await resolver.mx("missing.test")).status is DnsStatus.NXDOMAIN
    assert stub.questions.count(("missing.test", "MX")) == 1
    await resolver.mx("servfail.test")
    await resolver.mx("servfail.test")
    assert stub.questions.count(("servfail.test", "MX")) >= 2  # trouble is not remembered


async def test_the_cache_is_bounded_and_expires(hops: Make) -> None:
    now = [0.0]
    _, _, stub = hops()
    dns = {"nameservers": ("127.0.0.1",), "port": stub.port, "cache_size": 2}
    settings = make_settings(dns=dns)
    resolver = Resolver(lambda: settings, clock=lambda: now[0])
    for name in ("first.test", "second.test", "third.test"):
        await resolver.mx(name)
    await resolver.mx("first.test")
    assert stub.questions.count(("first.test", "MX")) == 2
    now[0] = 1000.0
    await resolver.mx("third.test")
    assert stub.questions.count(("third.test", "MX")) == 2


async def test_a_name_that_cannot_exist_is_no_name(hops: Make) -> None:
    _, resolver, stub = hops()
    assert (await resolver.mx(f"{'a' * 64}.test")).status is DnsStatus.NXDOMAIN
    assert (await resolver.mx("a..test")).status is DnsStatus.NXDOMAIN
    assert not stub.questions


async def test_localhost_is_known_without_the_dns_and_only_as_a_host(hops: Make) -> None:
    next_hops, resolver, stub = hops()
    found = await next_hops.find(Route(RouteKind.SMTP, "a@b.test", host="LocalHost", port=2526))
    assert sorted(str(one.address) for one in found) == ["127.0.0.1", "::1"]
    assert not stub.questions
    assert (await resolver.mx("localhost")).status is DnsStatus.NXDOMAIN


def test_literals_and_local_addresses_are_known() -> None:
    assert address_literal("[192.0.2.1]") == "192.0.2.1"
    assert address_literal("[IPv6:2001:DB8::1]") == "2001:db8::1"
    assert address_literal("[x]") is None
    assert address_literal("192.0.2.1") is None
    assert is_local_address("127.0.0.1")
    assert not is_local_address("192.0.2.1")
