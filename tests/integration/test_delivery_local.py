"""Local delivery: the real spool into a real volume, exactly once."""

from dataclasses import dataclass
from pathlib import Path

from gatepost.delivery.changes import RouteChanges
from gatepost.delivery.local import LocalTransport, outcome
from gatepost.mailbox import Volumes
from gatepost.message.verp import verp
from gatepost.native import CoreError, DamagedError, DiskFullError, InvalidError
from gatepost.queue.transport import Deferred, Delivered
from gatepost.routing.model import Route, RouteKind
from gatepost.routing.settings import ListSettings
from support.queue_lab import MESSAGE, RULES, QueueLab
from support.rules import KEY, make_rules

BOB = RULES.mailboxes["bob@here.test"].mailbox_id
ALICE = RULES.mailboxes["alice@here.test"].mailbox_id


@dataclass
class Place:
    """A volume."""

    name: str
    path: str


class LocalLab(QueueLab):
    """A lab with a real volume."""

    async def __aenter__(self) -> "LocalLab":
        start, self.start = self.start, False
        await super().__aenter__()
        self.volumes = await Volumes.open([Place("main", str(self.path / "volume"))], stream="w0")
        rules = make_rules(lists={"team": ListSettings("Team", subject_tag="[team]", footer_text="-- the team", verp=True)})
        self.transport = LocalTransport(self.volumes, self.spool, RouteChanges(lambda: rules, lambda: "here.test"))
        self.scheduler._transports["local"] = self.transport  # type: ignore[index]
        if start:
            await self.scheduler.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await super().__aexit__(None, None, None)
        await self.volumes.close()

    async def inbox(self, mailbox_id: bytes = ALICE) -> list[bytes]:
        """All messages of the INBOX."""
        store = self.volumes.by_name("main")
        folder = (await store.run("folder", mailbox_id, "INBOX"))[0]
        messages = []
        for uid, *_ in await store.run("messages", folder):
            stored = await store.run("message", folder, uid)
            messages.append(b"".join(iter(lambda stored=stored: stored.read(65536), b"")))
        return messages


async def test_a_message_is_stored_with_return_path_and_delivered_to_in_front(tmp_path: Path) -> None:
    async with LocalLab(tmp_path) as lab:
        await lab.submit("alice+lists@here.test", sender="bob@here.test")
        await lab.empty()
        (stored,) = await lab.inbox()
        lines = stored.split(b"\r\n")
        assert lines[0] == b"Return-Path: <bob@here.test>"
        assert lines[1] == b"Delivered-To: alice+lists@here.test"
        assert lines[2].startswith(b"Received: ")
        assert stored.endswith(MESSAGE)


async def test_a_member_of_a_list_gets_the_post_as_the_list_makes_it_and_the_next_one_gets_it_as_it_came(tmp_path: Path) -> None:
    alice = Route(RouteKind.LOCAL, "alice@here.test", ALICE, "main", return_path="verp:team@here.test", edits=(("list", "team@here.test"),))
    bob = Route(RouteKind.LOCAL, "bob@here.test", BOB, "main")
    async with LocalLab(tmp_path) as lab:
        for _ in range(2):
            await lab.commit(alice, bob)
            await lab.empty()
        (changed, again), (plain, _) = await lab.inbox(), await lab.inbox(BOB)
    assert changed == again
    path = verp("team@here.test", "alice@here.test", KEY).encode()
    assert changed.startswith(b"Return-Path: <" + path + b">\r\nDelivered-To: alice@here.test\r\nFrom: alice")
    assert b"\r\nSubject: [team] test\r\n" in changed and b"\r\nList-Id: Team <team.here.test>\r\n" in changed
    assert changed.endswith(b"hello\r\n\r\n-- the team\r\n")
    assert plain == b"Return-Path: <alice@here.test>\r\nDelivered-To: bob@here.test\r\n" + MESSAGE


async def test_a_report_has_an_empty_return_path(tmp_path: Path) -> None:
    async with LocalLab(tmp_path) as lab:
        await lab.submit("alice@here.test", sender="")
        await lab.empty()
        assert (await lab.inbox())[0].startswith(b"Return-Path: <>\r\n")


async def test_a_batch_that_is_repeated_after_a_crash_stores_nothing_twice(tmp_path: Path) -> None:
    async with LocalLab(tmp_path, start=False) as lab:
        for _ in range(10):
            await lab.submit("alice@here.test")
        jobs = lab.scheduler._decode("local:main", 100)
        assert all(isinstance(result.outcomes[0], Delivered) for result in await lab.transport.deliver("local:main", jobs))
        assert len(await lab.inbox()) == 10
    async with LocalLab(tmp_path) as lab:  # the spool knows nothing of it: everything is delivered again
        await lab.empty()
        assert lab.scheduler.counters["delivered"] == 10
        assert len(await lab.inbox()) == 10


async def test_an_unknown_volume_keeps_the_mail(tmp_path: Path) -> None:
    async with LocalLab(tmp_path, start=False) as lab:
        await lab.submit("alice@here.test")
        jobs = lab.scheduler._decode("local:main", 1)
        (result,) = await lab.transport.deliver("local:elsewhere", jobs)
        assert isinstance(result.outcomes[0], Deferred)


async def test_a_thousand_messages_go_through_in_batches(tmp_path: Path) -> None:
    async with LocalLab(tmp_path, start=False) as lab:
        for _ in range(1000):
            await lab.submit("alice@here.test", "bob@here.test")
        await lab.scheduler.start()
        await lab.empty(20)
        assert len(await lab.inbox()) == 1000


def test_faults_of_the_volume_are_temporary_and_back_off_as_a_whole() -> None:
    full = outcome(DiskFullError("x"))
    assert isinstance(full, Deferred)
    assert (full.enhanced, full.destination_down) == ("4.3.1", True)
    for error in (DamagedError("x"), InvalidError("x"), CoreError("x")):
        one = outcome(error)
        assert isinstance(one, Deferred)
        assert not one.destination_down
