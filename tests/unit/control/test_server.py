"""The gRPC servers themselves: sockets, TLS, health, reflection, status, mailboxes, stopping."""

import asyncio
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gatepost.api.directory.v1 import directory_pb2 as directory_api
from gatepost.api.directory.v1 import directory_pb2_grpc
from gatepost.api.mailbox.v1 import mailbox_pb2 as mailbox_api
from gatepost.api.mailbox.v1 import mailbox_pb2_grpc
from gatepost.api.queue.v1 import queue_pb2 as queue_api
from gatepost.api.queue.v1 import queue_pb2_grpc
from gatepost.api.rules.v1 import rules_pb2 as rules_api
from gatepost.api.rules.v1 import rules_pb2_grpc
from gatepost.api.server.v1 import server_pb2 as api
from gatepost.api.server.v1 import server_pb2_grpc
from gatepost.client import GatepostClient
from gatepost.config import Endpoint
from gatepost.control.access import Access
from gatepost.control.ports import ControlServerError
from gatepost.control.server import Certificates, ControlServer
from support.certificates import Authority
from support.control import Plane


def bare(path: Path, **more: object) -> ControlServer:
    """A server without services of ours."""
    return ControlServer([], Access(lambda _: None), unix_path=path, **more)


async def check(channel: grpc.aio.Channel) -> int:
    return (await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)).status


async def test_the_unix_socket_is_for_its_owner_only(plane: Plane):
    mode = os.lstat(plane.data / "control.sock").st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600


async def test_the_socket_of_a_dead_server_is_replaced_and_a_living_one_is_not(tmp_path: Path):
    path = tmp_path / "control.sock"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()
    server = bare(path)
    await server.start()
    with pytest.raises(ControlServerError, match="another server is running"):
        await bare(path).start()
    await server.stop(0)


async def test_something_else_in_the_place_of_the_socket_is_left_alone(tmp_path: Path):
    (tmp_path / "control.sock").write_text("precious")
    with pytest.raises(ControlServerError, match="not a socket"):
        await bare(tmp_path / "control.sock").start()
    assert (tmp_path / "control.sock").read_text() == "precious"


async def test_a_path_too_long_for_a_socket_address_works_all_the_same(tmp_path: Path):
    folder = tmp_path / ("d" * 120)
    folder.mkdir()
    async with Plane(folder) as plane, GatepostClient(plane.data) as client:
        assert (await client.server.status()).queue.messages == 0


async def test_a_tcp_address_in_use_is_a_clear_error(tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        endpoint = Endpoint("127.0.0.1", taken.getsockname()[1])
        with pytest.raises(ControlServerError, match=f"{endpoint.port}"):
            await bare(tmp_path / "c.sock", tcp=[endpoint]).start()


async def test_calls_held_open_by_strangers_over_tcp_do_not_keep_the_administrator_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gatepost.control.server.MAX_CALLS", 20)
    server = bare(tmp_path / "c.sock", tcp=[Endpoint("127.0.0.1", 0)])
    await server.start()
    async with (
        grpc.aio.insecure_channel(str(server.endpoints[0])) as stranger,
        grpc.aio.insecure_channel(f"unix:{tmp_path}/c.sock") as admin,
    ):
        watches = [health_pb2_grpc.HealthStub(stranger).Watch(health_pb2.HealthCheckRequest()) for _ in range(20)]
        await asyncio.gather(*(watch.read() for watch in watches))
        with pytest.raises(grpc.aio.AioRpcError, match="RESOURCE_EXHAUSTED"):
            await check(stranger)
        assert await check(admin) == health_pb2.HealthCheckResponse.SERVING
    await server.stop(0)


async def test_certificates_are_replaced_while_it_runs(tmp_path: Path):
    first, second = tmp_path / "one", tmp_path / "two"
    for folder in (first, second):
        folder.mkdir()
    authorities = [Authority(first), Authority(second)]
    pems = []
    for authority in authorities:
        authority.server_context("localhost")
        pems.append((authority.directory / "localhost.pem").read_bytes())
    server = bare(tmp_path / "c.sock", tcp=[Endpoint("127.0.0.1", 0)], certificates=Certificates(pems[0], pems[0]))
    await server.start()
    address = f"localhost:{server.endpoints[0].port}"

    async def reaches(authority: Authority) -> bool:
        credentials = grpc.ssl_channel_credentials(authority.ca_file.read_bytes())
        async with grpc.aio.secure_channel(address, credentials, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            try:
                return await check(channel) == health_pb2.HealthCheckResponse.SERVING
            except grpc.aio.AioRpcError:
                return False

    assert (await reaches(authorities[0]), await reaches(authorities[1])) == (True, False)
    server.replace_certificates(Certificates(pems[1], pems[1]))
    assert (await reaches(authorities[0]), await reaches(authorities[1])) == (False, True)
    await server.stop(0)


async def test_health_needs_no_login(plane: Plane, tcp: grpc.aio.Channel):
    assert await check(tcp) == health_pb2.HealthCheckResponse.SERVING
    named = health_pb2.HealthCheckRequest(service="gatepost.api.queue.v1.QueueService")
    assert (await health_pb2_grpc.HealthStub(tcp).Check(named)).status == health_pb2.HealthCheckResponse.SERVING


async def test_status_tells_workers_listeners_queue_and_disks(plane: Plane, unix: grpc.aio.Channel):
    plane.workers[0].queue.add(1)
    plane.workers[1].healthy = False
    status = await server_pb2_grpc.ServerServiceStub(unix).GetStatus(api.GetStatusRequest())
    assert [(one.index, one.state, one.partition) for one in status.workers] == [
        (0, api.WORKER_STATE_RUNNING, "p0"),
        (1, api.WORKER_STATE_FAILED, "p1"),
    ]
    assert status.workers[1].detail == "disk on fire"
    assert [(one.service, one.address, one.implicit_tls) for one in status.listeners][1] == ("imaps", "127.0.0.1:2993", True)
    assert status.queue.messages == 1
    assert status.disks[0].total_octets > status.disks[0].free_octets > 0
    assert status.uptime.seconds >= 59


async def test_status_answers_even_when_no_worker_does(plane: Plane, unix: grpc.aio.Channel):
    for worker in plane.workers:
        await worker.stop()
    status = await server_pb2_grpc.ServerServiceStub(unix).GetStatus(api.GetStatusRequest())
    assert status.partial
    assert [one.state for one in status.workers] == [api.WORKER_STATE_RESTARTING] * 2


async def test_reload_names_what_needs_a_restart_and_fails_with_the_reason(plane: Plane, unix: grpc.aio.Channel):
    stub = server_pb2_grpc.ServerServiceStub(unix)
    assert list((await stub.Reload(api.ReloadRequest())).restart_needed) == ["workers"]
    plane.reload_problem = ValueError("smtp.max_hops: must be a whole number")
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await stub.Reload(api.ReloadRequest())
    assert failure.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "smtp.max_hops" in failure.value.details()


async def test_drain_answers_and_then_begins(plane: Plane, unix: grpc.aio.Channel):
    await server_pb2_grpc.ServerServiceStub(unix).Drain(api.DrainRequest())
    await asyncio.wait_for(plane.drained.wait(), 2)


async def test_the_audit_log_is_paged_newest_first(plane: Plane, unix: grpc.aio.Channel):
    queue, server = queue_pb2_grpc.QueueServiceStub(unix), server_pb2_grpc.ServerServiceStub(unix)
    for name in "abc":
        await queue.PauseDestination(queue_api.PauseDestinationRequest(name=name))
    first = await server.GetAuditLog(api.GetAuditLogRequest(page_size=2))
    rest = await server.GetAuditLog(api.GetAuditLogRequest(page_size=2, page_token=first.next_page_token))
    assert [one.request for one in [*first.records, *rest.records]] == [f'{{"name":"{name}"}}' for name in "cba"]
    assert not rest.next_page_token
    assert not (await server.GetAuditLog(api.GetAuditLogRequest(rpc_prefix="/gatepost.api.rules."))).records


async def test_mailboxes_and_their_folders_are_listed_by_any_worker(plane: Plane, unix: grpc.aio.Channel):
    rules, users = rules_pb2_grpc.RulesServiceStub(unix), directory_pb2_grpc.DirectoryServiceStub(unix)
    mailboxes = mailbox_pb2_grpc.MailboxServiceStub(unix)
    await rules.CreateDomainRule(rules_api.CreateDomainRuleRequest(rule={"domain": "a.test", "kind": rules_api.RULE_KIND_HOSTED}))
    await users.CreateUser(directory_api.CreateUserRequest(address="x@a.test", password="a long enough password"))
    (listed,) = (await mailboxes.ListMailboxes(mailbox_api.ListMailboxesRequest())).mailboxes
    assert (listed.address, listed.messages, listed.used_octets) == ("x@a.test", 7, 4096)
    folders = (await mailboxes.ListFolders(mailbox_api.ListFoldersRequest(address="X@A.test"))).folders
    assert [(one.name, one.special_use) for one in folders] == [("INBOX", ""), ("Sent", "\\Sent")]
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await mailboxes.PurgeMailbox(mailbox_api.PurgeMailboxRequest(address="x@a.test"))
    assert failure.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await mailboxes.GetMailbox(mailbox_api.GetMailboxRequest(address="y@a.test"))
    assert failure.value.code() is grpc.StatusCode.NOT_FOUND


UVLOOP = """
import sys
from pathlib import Path

import grpc.aio
import uvloop
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gatepost.control.access import Access
from gatepost.control.server import ControlServer

async def run():
    path = Path(sys.argv[1])
    server = ControlServer([], Access(lambda _: None), unix_path=path)
    await server.start()
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
        print((await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)).status)
    await server.stop(1)

uvloop.run(run())
"""


def test_the_server_runs_under_uvloop_as_workers_do(tmp_path: Path):
    # In a process of its own: grpc.aio wants one event loop per process.
    command = [sys.executable, "-c", UVLOOP, str(tmp_path / "c.sock")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout.strip() == "1", done.stderr
