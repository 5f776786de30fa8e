"""A domain admin and the quarantine of a running server: his own domains' mail and recipients, nothing of others, no other call."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gatepost.client import ALL, GatepostClient, NotFoundError, PermissionDeniedError, QuarantineFilter, find_target
from gatepost.client.errors import InvalidRequestError
from support.gatepost import ALICE, PROGRAM, CommandFailed, Gatepost, start_gatepost
from support.processes import run
from support.quarantine import fill

CAROL = "carol@other.test"
DAVE = "dave@third.test"
NAME = "gatepost.example.test"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two workers; messages for alice, for carol, for both and for dave, 25 recipients before carol in one."""
    with start_gatepost(tmp_path_factory.mktemp("gatepost"), users=(ALICE, CAROL, DAVE), workers=2, quarantine={"keep_days": 0}) as made:
        made.stop()
        first, second = made.data / "spool" / "p0", made.data / "spool" / "p1"
        crowd = [f"user{number}@example.test" for number in range(25)]
        made.ids = {
            "alice": fill(first, 2, [ALICE]),
            "carol": fill(second, 2, [CAROL]),
            "both": fill(first, 3, [ALICE, CAROL]),
            "dave": fill(second, 1, [DAVE]),
            "crowd": fill(second, 1, [*crowd, CAROL]),
        }
        made.start()
        made.secrets = {
            name: made.json("token", "add", name, "--role", "domain-admin", *domains)["secret"]
            for name, domains in {"one": ("--domain", "Other.test"), "two": ("--domain", "other.test", "--domain", "third.test")}.items()
        }
        yield made


@asynccontextmanager
async def admin(server: Any, name: str = "one") -> AsyncIterator[GatepostClient]:
    address = f"localhost:{server.port('control_tcp')}"
    authority = server.data / "tls" / "cert.pem"
    async with GatepostClient(find_target(address=address, token=server.secrets[name], ca_file=authority, server_name=NAME)) as client:
        yield client


async def listed(client: GatepostClient, wanted: QuarantineFilter | None = None) -> list[str]:
    return [one.message.message_id.replace("-", "") async for one in client.quarantine.list(wanted, page_size=2)]


async def withheld(server: Any, message_id: str) -> list[str]:
    """Whom the message is still withheld from, as the server's own admin sees it."""
    async with GatepostClient(server.data) as client:
        found = await client.quarantine.get(message_id)
        return [one.address for one in found.found.message.recipients if one.state == "PENDING" and one.destination == "quarantine"]


async def test_he_lists_what_is_withheld_from_his_recipients_and_sees_no_others(server: Any) -> None:
    own = sorted(server.ids["carol"] + server.ids["both"] + server.ids["crowd"])
    async with admin(server) as client:
        assert await listed(client) == own
        async for one in client.quarantine.list():
            assert [recipient.address for recipient in one.message.recipients] == [CAROL]
            assert (one.message.recipient_count, one.withheld_count) == (1, 1)
        assert await listed(client, QuarantineFilter(domain="other.test")) == own
        assert await listed(client, QuarantineFilter(recipient=ALICE)) == []
        with pytest.raises(PermissionDeniedError, match=r"'example\.test' is not among your domains: other\.test"):
            await listed(client, QuarantineFilter(domain="example.test"))
    async with admin(server, "two") as client:
        assert await listed(client) == sorted(own + server.ids["dave"])
        assert await listed(client, QuarantineFilter(domain="third.test")) == server.ids["dave"]


async def test_he_sees_a_message_of_his_with_its_verdict_and_none_of_others(server: Any) -> None:
    async with admin(server) as client:
        details = await client.quarantine.get(server.ids["both"][0])
        assert [one.address for one in details.found.message.recipients] == [CAROL]
        assert details.found.verdict is not None
        assert ALICE not in "".join(entry.text for entry in details.history)
        for other in server.ids["alice"][0], server.ids["dave"][0]:
            with pytest.raises(NotFoundError):
                await client.quarantine.get(other)


async def test_what_he_releases_and_deletes_stays_withheld_from_others(server: Any) -> None:
    released, deleted, allowed = server.ids["both"]
    async with admin(server) as client:
        done = await client.quarantine.release(released)
        assert done.result.changed == 1
        assert (await client.quarantine.delete(deleted)).changed == 1
        with pytest.raises(PermissionDeniedError, match="for recipients of his domains only"):
            await client.quarantine.allow([allowed])
        made = await client.quarantine.allow([allowed], for_recipients_only=True)
        assert [(one.sender, one.recipient) for one in made.allowed] == [("mallory@evil.test", CAROL)]
        with pytest.raises(NotFoundError):
            await client.quarantine.get(released)
    for one in server.ids["both"]:
        assert await withheld(server, one) == [ALICE]


async def test_he_touches_nothing_of_others_by_id_by_recipient_or_by_everything(server: Any) -> None:
    alices, crowd = server.ids["alice"], server.ids["crowd"][0]
    async with admin(server) as client:
        for refused in (alices[0], [server.ids["carol"][0], alices[0]]):
            with pytest.raises(NotFoundError):
                await client.quarantine.delete(refused)
            with pytest.raises(NotFoundError):
                await client.quarantine.release(refused)
        with pytest.raises(PermissionDeniedError):
            await client.quarantine.release(crowd, recipients=[CAROL, "user1@example.test"])
        with pytest.raises(PermissionDeniedError):
            await client.quarantine.delete(QuarantineFilter(domain="example.test"))
        done = await client.quarantine.delete(ALL)
        assert done.changed == len(server.ids["carol"]) + 1
        assert await listed(client) == []
    assert len(await withheld(server, crowd)) == 25
    assert await withheld(server, alices[0]) == [ALICE]
    async with admin(server, "two") as client:
        with pytest.raises(InvalidRequestError, match=r"is needed: one of other\.test, third\.test"):
            await client.quarantine.delete(ALL)
        assert (await client.quarantine.delete(QuarantineFilter(domain="third.test"))).changed == 1


async def test_no_other_call_is_open_to_him(server: Any) -> None:
    one = server.ids["alice"][0]
    async with admin(server) as client:
        for attempt in (
            client.quarantine.rescan(one),
            client.quarantine.allow_sender("a@b.test", CAROL),
            client.quarantine.digest(CAROL),
            anext(aiter(client.quarantine.content(one))),
            anext(aiter(client.quarantine.allowed_senders())),
            anext(aiter(client.queue.list())),
            client.queue.remove(one),
            anext(aiter(client.policies.list())),
            client.policies.apply("mine", "[[rules]]\n"),
            client.directory.create_token("more", "admin"),
            client.server.status(),
        ):
            with pytest.raises(PermissionDeniedError, match="token:one is domain admin"):
                await attempt


def test_a_token_of_his_needs_domains_and_another_has_none(server: Gatepost) -> None:
    for arguments in (
        ["--role", "domain-admin"],
        ["--role", "viewer", "--domain", "other.test"],
        ["--role", "domain-admin", "--domain", "a b"],
    ):
        with pytest.raises(CommandFailed, match="domains"):
            server.cli("token", "add", "faulty", *arguments)
    assert "domain-admin of other.test, third.test" in server.cli("token", "list")


def test_his_command_line_is_the_ordinary_one(server: Any) -> None:
    address = [
        "--server",
        f"localhost:{server.port('control_tcp')}",
        "--server-name",
        NAME,
        "--ca-file",
        str(server.data / "tls" / "cert.pem"),
    ]
    (found,) = server.json("quarantine", "list", "--domain", "example.test", "--limit", "1")
    assert found["message"]["recipients"][0]["address"] == ALICE
    done = run(
        [str(PROGRAM), "quarantine", "list", "--domain", "example.test", *address], check=False, GATEPOST_TOKEN=server.secrets["one"]
    )
    assert (done.returncode, "is not among your domains" in done.stdout) == (4, True), done
