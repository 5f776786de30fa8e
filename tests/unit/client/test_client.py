"""The SDK against a running control plane: finding it, values, streams, and the tree of errors."""

import asyncio
import socket
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gatepost.client import (
    ALL,
    AlreadyExistsError,
    ConflictError,
    DomainRule,
    EtagMismatchError,
    GatepostClient,
    GatepostError,
    Gateway,
    Handler,
    InUseError,
    InvalidRequestError,
    NotFoundError,
    NotRunningError,
    PermissionDeniedError,
    QueueFilter,
    RefusedError,
    Route,
    ServerRefusedError,
    Target,
    UnauthenticatedError,
    UnavailableError,
    find_target,
)
from support.control import Plane

PASSWORD = "a long enough password"


async def test_messages_come_as_frozen_values_page_by_page(plane: Plane, client: GatepostClient):
    ids = [plane.workers[number % 2].queue.add(number, f"u{number}@example.net", held=number == 3) for number in range(1, 8)]
    found = [message async for message in client.queue.list(page_size=2)]
    assert [message.message_id for message in found] == ids
    first = found[0]
    assert first.recipients[0].state == "PENDING"
    assert first.recipients[0].last_reply is not None
    assert first.recipients[0].last_reply.code == 451
    assert first.origin.protocol == "ESMTP"
    assert datetime.now(UTC) - first.received < timedelta(minutes=1)
    assert [message.held for message in found] == [number == 3 for number in range(1, 8)]
    with pytest.raises(AttributeError):
        first.size = 1  # type: ignore[misc]
    assert len([message async for message in client.queue.list(limit=3, page_size=2)]) == 3


async def test_filters_are_passed_on(plane: Plane, client: GatepostClient):
    one = plane.workers[0].queue.add(1, "a@b.test", sender="")
    plane.workers[1].queue.add(2, "a@c.test")
    for wanted in (QueueFilter(domain="b.test"), QueueFilter(sender="<>"), QueueFilter(recipient="a@b*", state="pending", held=False)):
        assert [message.message_id async for message in client.queue.list(wanted)] == [one], wanted
    assert [message async for message in client.queue.list(QueueFilter(older_than=timedelta(hours=1)))] == []
    with pytest.raises(ValueError, match="pending, delivered"):
        _ = [message async for message in client.queue.list(QueueFilter(state="lost"))]


async def test_list_hold_release_and_remove(plane: Plane, client: GatepostClient):
    ids = [plane.workers[number % 2].queue.add(number) for number in range(1, 5)]
    assert (await client.queue.hold(ids[:2])).changed == 2
    assert [message.message_id async for message in client.queue.list(QueueFilter(held=True))] == ids[:2]
    assert (await client.queue.release(QueueFilter(held=True))).message_ids == tuple(ids[:2])
    assert (await client.queue.retry(ids[0][:13])).matched == 1
    assert (await client.queue.remove(ALL, dry_run=True)).matched == 4
    assert (await client.queue.remove(ALL, send_dsn=True)).changed == 4


async def test_details_octets_and_rerouting(plane: Plane, client: GatepostClient):
    one = plane.workers[1].queue.add(5, body=b"Subject: hi\r\n\r\n" + b"x" * 200_000)
    details = await client.queue.get(one)
    assert details.headers == (("Subject", "hi"),)
    assert details.history[0].kind == "deferred"
    assert b"".join([chunk async for chunk in client.queue.download(one)]).endswith(b"x")
    (route,) = await client.queue.reroute(one, route=Route("smtp", host="192.0.2.8", port=2500, tls="required"))
    assert (route.host, route.port, route.tls) == ("192.0.2.8", 2500, "required")


async def test_watch_begins_when_it_says_so_and_ends_when_the_reader_stops(plane: Plane, client: GatepostClient):
    one = plane.workers[0].queue.add(1)
    started = asyncio.Event()

    async def first() -> str:
        async for event in client.queue.watch(started=started.set):
            return f"{event.kind} {event.message_id}"
        return ""

    watching = asyncio.create_task(first())
    await asyncio.wait_for(started.wait(), 5)
    await client.queue.hold([one])
    assert await asyncio.wait_for(watching, 5) == f"held {one}"


async def test_submit_streams_a_message_and_tells_who_was_refused(plane: Plane, client: GatepostClient):
    async def pieces() -> AsyncIterator[bytes]:
        yield b"Subject: x\r\n\r\n"
        yield b"y" * 300_000

    done = await client.queue.submit("a@b.test", ["x@example.net", "y@refused.test"], pieces())
    assert done.size == 300_014
    assert [(one.address, one.reply.code) for one in done.refused] == [("y@refused.test", 550)]
    with pytest.raises(RefusedError) as failure:
        await client.queue.submit("a@b.test", ["y@refused.test"], b"x")
    assert failure.value.refused[0].reply.enhanced == "5.1.1"


async def test_a_refusal_in_the_middle_of_a_long_body_is_told_as_it_is(plane: Plane, client: GatepostClient):
    for _ in range(5):
        with pytest.raises(RefusedError):
            await client.queue.submit("a@b.test", ["y@refused.test"], b"x" * (4 << 20))


async def test_a_body_that_fails_half_way_queues_nothing(plane: Plane, client: GatepostClient):
    async def broken() -> AsyncIterator[bytes]:
        yield b"Subject: x\r\n\r\n"
        raise OSError("disk unplugged")

    with pytest.raises(OSError, match="unplugged"):
        await client.queue.submit("a@b.test", ["x@example.net"], broken())
    await asyncio.sleep(0.2)
    assert all(not worker.queue.rows for worker in plane.workers)


async def test_too_large_a_message_is_refused_by_the_server(plane: Plane, client: GatepostClient):
    with pytest.raises(ServerRefusedError, match=r"552 5\.3\.4"):
        await client.queue.submit("a@b.test", ["x@example.net"], b"x" * (2 << 20))


async def test_destinations_and_stats(plane: Plane, client: GatepostClient):
    plane.workers[0].queue.add(1)
    (destination,) = [one async for one in client.queue.destinations()]
    assert (await client.queue.pause(destination.name)).paused
    assert not (await client.queue.resume(destination.name)).paused
    totals = await client.queue.stats()
    assert totals.total.messages == 1
    assert sorted(totals.workers) == [0, 1]


async def test_rules_handlers_users_tokens_volumes_and_mailboxes(plane: Plane, client: GatepostClient):
    rule = await client.rules.create(DomainRule("a.test", "hosted", handlers=(Handler("gone", "reject", text="moved"),)))
    gateway = await client.rules.create(DomainRule("g.test", "gateway", Gateway("mx.g.test", username="u", password="hush")))
    assert gateway.gateway is not None
    assert (gateway.gateway.port, gateway.gateway.has_password, gateway.gateway.password) == (25, True, "")
    assert [one.domain async for one in client.rules.list()] == ["a.test", "g.test"]
    changed = await client.rules.update(DomainRule("a.test", "hosted", text="x"), ["text"], etag=rule.etag)
    assert (changed.text, changed.handlers) == ("x", rule.handlers)
    user = await client.directory.create_user("x@a.test", PASSWORD)
    assert user.has_password
    await client.rules.create_handler("a.test", Handler("team", "forward", ("x@a.test",)))
    assert [one.pattern async for one in client.rules.list_handlers("a.test")] == ["gone", "team"]
    explained = await client.rules.explain("team@a.test")
    assert [(route.kind, route.address) for route in explained.routes] == [("local", "x@a.test")]
    assert (await client.mailboxes.get("x@a.test")).messages == 7
    assert [folder.name async for folder in client.mailboxes.folders("x@a.test")] == ["INBOX", "Sent"]
    token, secret = await client.directory.create_token("t", "viewer")
    assert (token.role, plane.directory.verify_token(secret) is not None) == ("viewer", True)
    assert not (await client.directory.set_enabled("x@a.test", False)).enabled
    assert (await anext(client.rules.versions())).author.startswith("local:")
    assert [volume.name async for volume in client.directory.list_volumes()] == ["main"]
    assert [record.outcome async for record in client.server.audit_log(limit=2)] == ["OK", "OK"]


async def test_users_and_volumes_are_changed_on_the_condition_of_their_etag(plane: Plane, client: GatepostClient):
    await client.rules.create(DomainRule("a.test", "hosted"))
    user = await client.directory.create_user("x@a.test", PASSWORD)
    changed = await client.directory.set_password("x@a.test", PASSWORD, etag=user.etag)
    with pytest.raises(EtagMismatchError) as stale:
        await client.directory.set_enabled("x@a.test", False, etag=user.etag)
    assert stale.value.current_etag == changed.etag == (await client.directory.get_user("x@a.test")).etag
    with pytest.raises(EtagMismatchError):
        await client.directory.delete_user("x@a.test", etag=user.etag, purge_mail=True)
    with pytest.raises(EtagMismatchError):
        await client.directory.set_password("x@a.test", PASSWORD, etag=user.etag)
    off = await client.directory.set_enabled("x@a.test", False, etag=changed.etag)
    await client.directory.delete_user("x@a.test", etag=off.etag)
    volume = await client.directory.create_volume("fast", str(plane.data / "fast"))
    assert await client.directory.get_volume("fast") == volume
    with pytest.raises(EtagMismatchError):
        await client.directory.delete_volume("fast", etag="old")
    await client.directory.delete_volume("fast", etag=volume.etag)
    with pytest.raises(NotFoundError):
        await client.directory.get_volume("fast")
    with pytest.raises(InUseError):
        await client.directory.delete_volume("main")


async def test_each_failure_is_the_leaf_one_can_act_upon(plane: Plane, client: GatepostClient):
    rule = await client.rules.create(DomainRule("a.test", "hosted"))
    await client.directory.create_user("x@a.test", PASSWORD)
    with pytest.raises(NotFoundError) as missing:
        await client.rules.get("b.test")
    assert missing.value.status == "NOT_FOUND"
    with pytest.raises(AlreadyExistsError):
        await client.rules.create(DomainRule("a.test", "hosted"))
    with pytest.raises(EtagMismatchError) as stale:
        await client.rules.update(DomainRule("a.test", "hosted", text="x"), ["text"], etag="old")
    assert stale.value.current_etag == rule.etag
    with pytest.raises(InUseError):
        await client.rules.delete("a.test")
    with pytest.raises(InvalidRequestError) as bad:
        await client.directory.create_user("nonsense")
    assert bad.value.violations[0][0] == "address"
    assert issubclass(EtagMismatchError, ConflictError)
    assert issubclass(UnauthenticatedError, PermissionDeniedError)


async def test_over_tcp_a_token_and_the_authority_are_needed(plane: Plane):
    authority = plane.authority.ca_file
    viewer = find_target(address=plane.tcp, token=plane.token("viewer"), ca_file=authority)
    async with GatepostClient(viewer) as client:
        assert (await client.server.status()).hostname == "gatepost.test"
        with pytest.raises(PermissionDeniedError, match="operator"):
            await client.queue.hold(ALL)
    async with GatepostClient(find_target(address=plane.tcp, ca_file=authority)) as client:
        with pytest.raises(UnauthenticatedError, match="token"):
            await client.server.status()
    async with GatepostClient(Target(plane.tcp)) as client:
        with pytest.raises(UnavailableError):
            await client.server.status()


async def test_no_server_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(NotRunningError) as missing:
        async with GatepostClient(tmp_path):
            pass
    assert str(missing.value) == f"no server at {tmp_path}/control.sock: start it with gatepost serve --data {tmp_path}"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(tmp_path / "control.sock"))
    stale.close()
    async with GatepostClient(tmp_path) as client:
        with pytest.raises(NotRunningError, match="start it with"):
            await client.server.status()
    monkeypatch.chdir(tmp_path)
    for name in ("GATEPOST_DATA", "GATEPOST_SERVER"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(NotRunningError, match="--data DIR"):
        find_target()


def test_the_server_is_found_by_argument_environment_and_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GATEPOST_DATA", raising=False)
    monkeypatch.delenv("GATEPOST_SERVER", raising=False)
    (tmp_path / "var").mkdir()
    assert find_target().address == f"unix:{tmp_path}/var/control.sock"
    monkeypatch.setenv("GATEPOST_DATA", str(tmp_path / "env"))
    assert find_target().address == f"unix:{tmp_path}/env/control.sock"
    monkeypatch.setenv("GATEPOST_SERVER", "mail.test:2551")
    monkeypatch.setenv("GATEPOST_TOKEN", "secret")
    assert (find_target().address, find_target().token) == ("mail.test:2551", "secret")
    assert find_target("given").address == f"unix:{tmp_path}/given/control.sock"
    assert find_target("given", address="other.test:1").address == "other.test:1"


async def test_every_call_has_a_deadline(tmp_path: Path):
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "control.sock"))
        silent.listen()
        async with GatepostClient(tmp_path, timeout=0.5) as client:
            with pytest.raises(GatepostError) as failure:
                await asyncio.wait_for(client.server.status(), 10)
    assert isinstance(failure.value, UnavailableError)
