"""The audit log: on disk before the change, with its outcome after; without it no change."""

import json
import os
from pathlib import Path

import grpc
import grpc.aio
import pytest

from gatepost.api.directory.v1 import directory_pb2 as directory_api
from gatepost.api.directory.v1 import directory_pb2_grpc
from gatepost.api.queue.v1 import queue_pb2 as queue_api
from gatepost.api.queue.v1 import queue_pb2_grpc
from gatepost.api.rules.v1 import rules_pb2 as rules_api
from gatepost.api.rules.v1 import rules_pb2_grpc
from gatepost.control.audit import AuditError, AuditLog
from support.control import Plane

RECORD = {"actor": "local:root", "role": "admin", "peer": "unix", "rpc": "/x.Y/Z", "request": "{}"}


def lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_a_record_is_on_disk_before_the_outcome_and_is_one_line_after(tmp_path: Path):
    log = AuditLog(tmp_path / "audit.log")
    entry = await log.begin(RECORD)
    assert lines(tmp_path / "audit.log")[0]["outcome"] == "STARTED"
    await log.finish(entry, "FAILED_PRECONDITION")
    (record,) = lines(tmp_path / "audit.log")
    assert record["outcome"] == "FAILED_PRECONDITION"
    assert record["actor"] == "local:root"
    log.close()


async def test_outcomes_of_interleaved_changes_reach_their_own_lines(tmp_path: Path):
    log = AuditLog(tmp_path / "audit.log")
    entries = [await log.begin({**RECORD, "rpc": f"/n/{number}"}) for number in range(5)]
    for number in reversed(range(5)):
        await log.finish(entries[number], f"CODE_{number}")
    assert [(one["rpc"], one["outcome"]) for one in lines(tmp_path / "audit.log")] == [(f"/n/{n}", f"CODE_{n}") for n in range(5)]
    log.close()


async def test_it_is_rotated_by_size_and_read_newest_first_over_all_files(tmp_path: Path):
    log = AuditLog(tmp_path / "audit.log", max_bytes=400, keep=3)
    for number in range(12):
        await log.finish(await log.begin({**RECORD, "rpc": f"/n/{number}"}), "OK")
    assert sorted(os.listdir(tmp_path)) == ["audit.log", "audit.log.1", "audit.log.2", "audit.log.3"]
    newest = await log.read(4, "")
    assert [one["rpc"] for one in newest] == ["/n/11", "/n/10", "/n/9", "/n/8"]
    assert [one["rpc"] for one in await log.read(2, newest[-1]["time"])] == ["/n/7", "/n/6"]
    log.close()


async def test_an_entry_that_is_open_while_the_log_is_rotated_gets_its_outcome(tmp_path: Path):
    log = AuditLog(tmp_path / "audit.log", max_bytes=300)
    first = await log.begin(RECORD)
    for _ in range(3):
        await log.finish(await log.begin(RECORD), "OK")
    await log.finish(first, "ABORTED")
    assert [one["outcome"] for one in await log.read(10, "")][-1] == "ABORTED"
    log.close()


async def test_a_torn_last_line_does_not_hide_what_follows(tmp_path: Path):
    path = tmp_path / "audit.log"
    path.write_bytes(b'{"time":"2026-01-01T00:00:00.000000+00:00","actor":"x","rp')
    log = AuditLog(path)
    await log.finish(await log.begin(RECORD), "OK")
    assert [one["outcome"] for one in await log.read(10, "")] == ["OK"]
    log.close()


async def test_a_closed_log_refuses(tmp_path: Path):
    log = AuditLog(tmp_path / "audit.log")
    log.close()
    with pytest.raises(AuditError):
        await log.begin(RECORD)


def test_the_file_is_for_its_owner_only(tmp_path: Path):
    AuditLog(tmp_path / "audit.log").close()
    assert os.stat(tmp_path / "audit.log").st_mode & 0o777 == 0o600


async def test_a_change_that_cannot_be_recorded_is_not_made(plane: Plane, unix: grpc.aio.Channel):
    plane.workers[0].queue.add(1)
    plane.audit.close()
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await queue_pb2_grpc.QueueServiceStub(unix).HoldMessages(queue_api.HoldMessagesRequest(selection={"all": True}))
    assert failure.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "audit" in failure.value.details()
    assert plane.workers[0].queue.calls == []


async def test_reading_and_dry_runs_leave_no_record(plane: Plane, unix: grpc.aio.Channel):
    stub = queue_pb2_grpc.QueueServiceStub(unix)
    await stub.ListMessages(queue_api.ListMessagesRequest())
    await stub.HoldMessages(queue_api.HoldMessagesRequest(selection={"all": True}, dry_run=True))
    assert lines(plane.data / "audit.log") == []


async def test_records_tell_who_what_and_how_it_ended_but_no_secrets(plane: Plane, unix: grpc.aio.Channel):
    rules, users = rules_pb2_grpc.RulesServiceStub(unix), directory_pb2_grpc.DirectoryServiceStub(unix)
    metadata = [("gatepost-user", "karin")]
    rule = {"domain": "b.test", "kind": "RULE_KIND_GATEWAY", "gateway": {"host": "mx.b.test", "username": "u", "password": "hush-hush"}}
    await rules.CreateDomainRule(rules_api.CreateDomainRuleRequest(rule={**rule, "kind": rules_api.RULE_KIND_GATEWAY}), metadata=metadata)
    await rules.CreateDomainRule(rules_api.CreateDomainRuleRequest(rule={"domain": "a.test", "kind": rules_api.RULE_KIND_HOSTED}))
    await users.CreateUser(directory_api.CreateUserRequest(address="x@a.test", password="hush-hush-hush"))
    with pytest.raises(grpc.aio.AioRpcError):
        await users.CreateUser(directory_api.CreateUserRequest(address="x@a.test", password="hush-hush-hush"))
    text = (plane.data / "audit.log").read_text()
    assert "hush" not in text
    assert [one["outcome"] for one in lines(plane.data / "audit.log")] == ["OK", "OK", "OK", "ALREADY_EXISTS"]
    first = lines(plane.data / "audit.log")[0]
    assert (first["actor"], first["peer"], first["rpc"].rpartition("/")[2]) == ("local:karin", "unix", "CreateDomainRule")
    assert "b.test" in first["request"]


async def test_a_denied_change_is_recorded(plane: Plane, tcp: grpc.aio.Channel):
    with pytest.raises(grpc.aio.AioRpcError):
        await queue_pb2_grpc.QueueServiceStub(tcp).RemoveMessages(
            queue_api.RemoveMessagesRequest(selection={"all": True}), metadata=[("authorization", f"Bearer {plane.token('viewer')}")]
        )
    (record,) = lines(plane.data / "audit.log")
    assert (record["actor"], record["role"], record["outcome"]) == ("token:a-viewer", "viewer", "PERMISSION_DENIED")
