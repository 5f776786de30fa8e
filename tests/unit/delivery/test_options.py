"""What a rule says of its deliveries: several next hops, pinned keys, names, connections, as real peers see it."""

import asyncio
import random
import ssl
from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gatepost.delivery.next_hop import in_order
from gatepost.delivery.smtp import SmtpTransport
from gatepost.queue.transport import Deferred, Delivered, Failed
from gatepost.routing.model import DeliveryOptions, NextHop, TlsPolicy
from support.certificates import Authority
from support.delivery import make_job, outcomes_of
from support.smtp_peer import CLOSE, SmtpPeer

Make = Callable[..., SmtpTransport]


def several(*peers: SmtpPeer) -> tuple[NextHop, ...]:
    return tuple(NextHop("127.0.0.1", peer.port, priority) for priority, peer in enumerate(peers))


async def test_the_next_host_gets_the_mail_within_one_attempt_when_the_first_is_of_no_use(transport: Make) -> None:
    async with SmtpPeer({"greeting": [CLOSE]}) as first, SmtpPeer({"greeting": ["554 not now\r\n"]}) as second, SmtpPeer() as third:
        (outcome,) = await outcomes_of(transport(), make_job("b@x.test", port=first.port, next_hops=several(first, second, third)))
    assert isinstance(outcome, Delivered)
    assert (first.connections, second.connections, len(third.transactions)) == (1, 1, 1)


async def test_a_host_that_refuses_the_recipient_is_believed(transport: Make) -> None:
    async with SmtpPeer({"RCPT": ["550 5.1.1 nobody\r\n"]}) as first, SmtpPeer() as second:
        (outcome,) = await outcomes_of(transport(), make_job("b@x.test", port=first.port, next_hops=several(first, second)))
    assert isinstance(outcome, Failed) and not second.connections


async def test_the_mail_waits_when_none_of_the_hosts_is_to_be_had(transport: Make) -> None:
    async with SmtpPeer({"greeting": [CLOSE]}) as first, SmtpPeer({"greeting": [CLOSE]}) as second:
        hops = (*several(first, second), NextHop("no-such-host.invalid", 25, 9))
        (outcome,) = await outcomes_of(transport(), make_job("b@x.test", port=first.port, next_hops=hops))
    assert isinstance(outcome, Deferred) and outcome.destination_down


def test_among_equals_the_weight_decides_and_priority_goes_before_it() -> None:
    hops = (NextHop("big", weight=3), NextHop("small", weight=1), NextHop("last", priority=5, weight=100), NextHop("never", weight=0))
    rng = random.Random(1)
    orders = [in_order(hops, rng) for _ in range(2000)]
    assert all(order[-1].host == "last" and len(order) == 4 for order in orders)
    first = Counter(order[0].host for order in orders)
    assert 1350 < first["big"] < 1650 and 350 < first["small"] < 650 and first["never"] < 20


async def test_a_pinned_key_is_taken_and_another_is_not(transport: Make, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with SmtpPeer(tls=authority.server_context("whoever.test")) as peer:
        pin = await pin_of(peer)
        right, wrong = (DeliveryOptions(pins=(one,)) for one in (pin, "0" * 64))
        job = make_job("b@x.test", port=peer.port, tls=TlsPolicy.PINNED, options=right)
        (taken,) = await outcomes_of(transport(), job)
        (refused,) = await outcomes_of(transport(), make_job("b@x.test", port=peer.port, tls=TlsPolicy.PINNED, options=wrong))
    assert isinstance(taken, Delivered)
    assert isinstance(refused, Deferred) and refused.enhanced == "4.7.5" and "public key" in refused.reason
    assert len(peer.transactions) == 1


async def test_nothing_goes_out_in_the_clear_where_a_key_is_pinned(transport: Make) -> None:
    async with SmtpPeer() as peer:
        job = make_job("b@x.test", port=peer.port, tls=TlsPolicy.PINNED, options=DeliveryOptions(pins=("0" * 64,)))
        (outcome,) = await outcomes_of(transport(), job)
    assert isinstance(outcome, Deferred) and outcome.enhanced == "4.7.4" and not peer.transactions


async def pin_of(peer: SmtpPeer) -> str:
    """As an administrator would find it: SHA-256 of the SubjectPublicKeyInfo of the certificate shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    reader, writer = await asyncio.open_connection("127.0.0.1", peer.port)
    await reader.readline()
    writer.write(b"EHLO x\r\n")
    while (await reader.readline())[3:4] == b"-":
        pass
    writer.write(b"STARTTLS\r\n")
    await reader.readline()
    await writer.start_tls(context)
    certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    key = x509.load_der_x509_certificate(certificate).public_key()
    return sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


async def test_the_rule_says_the_name_the_source_and_how_many_messages_a_connection_gets(transport: Make) -> None:
    options = DeliveryOptions(helo="other.here.test", source_address="127.0.0.7", messages_per_connection=2)
    async with SmtpPeer() as peer:
        sender = transport()
        for _ in range(3):
            assert isinstance((await outcomes_of(sender, make_job("b@x.test", port=peer.port, options=options)))[0], Delivered)
    assert peer.connections == 2
    assert [line for line in peer.commands if line.startswith("EHLO")] == ["EHLO other.here.test"] * 2
    assert peer.clients == {"127.0.0.7"}
