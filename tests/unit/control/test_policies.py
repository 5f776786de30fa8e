"""PoliciesService over a real directory and queue: roles, checks before storing, rules that name policies, and dry runs."""

import asyncio
import json
from pathlib import Path

import pytest

from gatepost.app.scan_file import main as scan
from gatepost.client import DomainRule, GatepostClient, Handler
from gatepost.client.connection import find_target
from gatepost.client.errors import (
    EtagMismatchError,
    GatepostError,
    InUseError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
)
from support.control import Plane

STRICT = """
description = "no logs"
[[rules]]
name = "logs"
action = "reject"
extensions = ["log"]
"""
MAIL = (
    b"From: a@b.test\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\n\r\nhi\r\n"
    b'--x\r\nContent-Disposition: attachment; filename="a.log"\r\n\r\nlog\r\n--x--\r\n'
)


async def test_a_policy_is_applied_listed_shown_and_removed_and_workers_are_told(plane: Plane) -> None:
    async with GatepostClient(plane.data) as client:
        made = await client.policies.apply("strict", STRICT)
        assert (made.rule_count, made.description) == (1, "no logs")
        listed = [(one.name, one.text) async for one in client.policies.list()]
        assert listed == [("no-attachments", ""), ("none", ""), ("shipped", ""), ("strict", "")]
        assert (await client.policies.get("strict")).text == STRICT
        assert (await client.policies.get("shipped")).rule_count > 5
        with pytest.raises(EtagMismatchError):
            await client.policies.apply("strict", STRICT, etag="p1")
        await client.policies.delete("strict", etag=made.etag)
        with pytest.raises(NotFoundError):
            await client.policies.get("strict")
    assert [worker.reloads for worker in plane.workers] == [[False, False], [False, False]]
    assert [json.loads(line)["rpc"].rpartition("/")[2] for line in (plane.data / "audit.log").read_text().splitlines()] == [
        "ApplyPolicy",
        "ApplyPolicy",
        "DeletePolicy",
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[[rules", "Expected"),
        ("colour = 1", "colour: there is no such key"),
        (
            '[[rules]]\nname = "x"\naction = "hold"\nwhen = "entry.siz > 1"',
            "rule 1 (x): when: column 7: entry has no field 'siz'; did you mean",
        ),
        ('[[rules]]\nname = "x"\naction = "hold"', "rule 1 (x): has no condition"),
        ('[[rules]]\nname = "x"\naction = "hold"\nflags = ["odd"]', "rule 1 (x): flags.0: must be one of container, encrypted,"),
        (
            '[[rules]]\nname = "x"\naction = "hold"\nsha256_files = ["/nowhere/list"]',
            "rule 1 (x): sha256_files: cannot read '/nowhere/list'",
        ),
    ],
)
async def test_a_faulty_text_is_said_so_and_never_stored(plane: Plane, text: str, fault: str) -> None:
    async with GatepostClient(plane.data) as client:
        assert (await client.policies.check(text)).startswith(fault)
        with pytest.raises(InvalidRequestError, match="text"):
            await client.policies.apply("strict", text)
        assert await client.policies.check(STRICT) == ""
    assert plane.directory.list_policies() == []


async def test_rules_and_handlers_name_policies_that_are_there(plane: Plane) -> None:
    async with GatepostClient(plane.data) as client:
        await client.policies.apply("strict", STRICT)
        await client.rules.create(DomainRule("a.test", "hosted", policy="strict"))
        await client.rules.create_handler("a.test", Handler("boss", "discard", policy="none"))
        with pytest.raises(InvalidRequestError, match="did you mean 'strict'"):
            await client.rules.update(DomainRule("a.test", "hosted", policy="strct"), ["policy"])
        with pytest.raises(InUseError, match=r"a\.test"):
            await client.policies.delete("strict")
        explained = await client.rules.explain("boss@a.test")
        assert "attachments are judged by the policy 'none'" in [step.detail for step in explained.trace]
        rule = await client.rules.update(DomainRule("a.test", "hosted", text=""), ["policy"])
        assert (rule.policy, rule.handlers[0].policy) == ("", "none")


async def test_a_viewer_reads_an_operator_tries_an_admin_changes(plane: Plane) -> None:
    one = plane.workers[0].queue.add(1, body=MAIL)
    may: dict[str, list[str]] = {}
    for role in ("viewer", "operator", "admin"):
        target = find_target(address=plane.tcp, token=plane.token(role), ca_file=plane.authority.ca_file)
        async with GatepostClient(target) as client:
            calls = {"get": client.policies.get("shipped"), "try": client.policies.try_on(one), "apply": client.policies.apply("p", STRICT)}
            for name, call in calls.items():
                try:
                    await call
                    may.setdefault(role, []).append(name)
                except PermissionDeniedError:
                    pass
    assert may == {"viewer": ["get"], "operator": ["get", "try"], "admin": ["get", "try", "apply"]}


async def test_a_queued_message_is_judged_by_the_policy_of_each_recipient_or_by_one(plane: Plane) -> None:
    one = plane.workers[1].queue.add(1, "b@strict.test", "c@other.test", body=MAIL)
    async with GatepostClient(plane.data) as client:
        await client.policies.apply("strict", STRICT)
        await client.rules.create(DomainRule("strict.test", "mx", policy="strict"))
        trial = await client.policies.try_on(one)
        assert [(found.address, found.policy, found.fate) for found in trial.recipients] == [
            ("b@strict.test", "strict", "quarantine"),
            ("c@other.test", "shipped", "deliver"),
        ]
        assert (trial.action, trial.rule, trial.inspection) == ("quarantine", "logs", "complete")
        trial = await client.policies.try_on(one, "strict")
        assert (trial.action, trial.reason) == ("reject", "logs: a.log")
        for message, policy in ((one, "unheard-of"), ("00000000-0000-7000-8000-000000000000", "")):
            with pytest.raises(NotFoundError):
                await client.policies.try_on(message, policy)


async def test_scan_asks_the_server_about_queue_and_policies(plane: Plane, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:

    one = plane.workers[0].queue.add(1, "b@strict.test", body=MAIL)
    file = tmp_path / "mail.eml"
    file.write_bytes(MAIL)
    async with GatepostClient(plane.data) as client:
        await client.policies.apply("strict", STRICT)

    async def run(*words: str) -> tuple[int, str]:
        code = await asyncio.to_thread(scan, [*words, "--data", str(plane.data)])
        return code, capsys.readouterr().out

    assert (await run("--queue", one))[0] == 0
    code, out = await run("--queue", one, "--policy", "strict")
    assert code == 1
    assert "policy: reject — logs: a.log\n" in out
    assert "b@strict.test: reject (policy strict)\n" in out
    code, out = await run(str(file), "--policy", "strict")
    assert code == 1
    assert "policy: reject — logs: a.log\n" in out
    assert (await run(str(file)))[0] == 0
    assert (await run("--queue", one, "--policy", "x.toml"))[0] == 2
    (tmp_path / "mine.toml").write_text(STRICT.replace('name = "logs"', 'name = "not stored yet"'))
    code, out = await run("--queue", one, "--policy", str(tmp_path / "mine.toml"))
    assert (code, "reject: not stored yet: a.log  (" in out, "b@strict.test: reject (policy file)" in out) == (1, True, True), out
    async with GatepostClient(plane.data) as client:
        with pytest.raises(NotFoundError, match="'strikt'; did you mean 'strict'"):
            await client.policies.get("strikt")
        with pytest.raises(NotFoundError, match="'strikt'; did you mean 'strict'"):
            await client.policies.try_on(one, "strikt")


async def test_a_reserved_name_is_not_to_be_had(plane: Plane) -> None:
    async with GatepostClient(plane.data) as client:
        for name in ("shipped", "none", "Not A Name"):
            with pytest.raises(GatepostError):
                await client.policies.apply(name, STRICT)
