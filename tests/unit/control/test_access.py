"""Who may call what: every RPC with the least role that may, and with one that may not."""

from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import descriptor_pool, message_factory

from gatepost.api.common.v1 import common_pb2 as common
from gatepost.api.queue.v1 import queue_pb2 as queue_api
from gatepost.api.queue.v1 import queue_pb2_grpc
from gatepost.control.access import RPCS, Role
from support.control import Plane

PUBLIC = ("queue", "rules", "rulesets", "directory", "mailbox", "policies", "flow", "server", "history", "quarantine", "lists", "events")
ALLOWED_STATUS = set(grpc.StatusCode) - {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNIMPLEMENTED}


def methods(*nouns: str) -> dict[str, Any]:
    """Every method of the services, by its path on the wire."""
    pool = descriptor_pool.Default()
    found = {}
    for noun in nouns:
        __import__(f"gatepost.api.{noun}.v1.{noun}_pb2_grpc")
        name = "Worker" if noun == "worker" else noun.capitalize()
        service = pool.FindServiceByName(f"gatepost.api.{noun}.v1.{name}Service")
        found.update({f"/{service.full_name}/{method.name}": method for method in service.methods})
    return found


async def status_of(channel: grpc.aio.Channel, path: str, method: Any, token: str = "") -> grpc.StatusCode:
    """Call with an empty request; the status."""
    request = message_factory.GetMessageClass(method.input_type)()
    metadata = [("authorization", f"Bearer {token}")] if token else []
    serialize = type(request).SerializeToString
    if method.client_streaming:
        call = channel.stream_unary(path, request_serializer=serialize)(iter([request]), metadata=metadata, timeout=5)
    elif method.server_streaming:
        call = channel.unary_stream(path, request_serializer=serialize)(request, metadata=metadata, timeout=1)

        async def drain() -> None:
            async for _ in call:
                pass

        try:
            await drain()
        except grpc.aio.AioRpcError:
            pass
        return await call.code()
    else:
        call = channel.unary_unary(path, request_serializer=serialize)(request, metadata=metadata, timeout=5)
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def test_every_rpc_is_in_the_table_and_nothing_else_is():
    ours = {path for path in RPCS if path.startswith("/gatepost.")}
    assert ours == set(methods(*PUBLIC, "worker"))


def test_every_rpc_that_changes_something_is_marked_so():
    reading = ("List", "Get", "Preview", "Watch", "Download", "Explain", "Check", "Try", "Diff", "Rehearse")
    for path, rule in RPCS.items():
        if path.startswith("/gatepost.") and "worker.v1" not in path:
            assert rule.changes != path.rpartition("/")[2].startswith(reading), path


async def test_each_rpc_is_open_to_its_role_and_closed_to_the_one_below(plane: Plane, tcp: grpc.aio.Channel):
    tokens = {role: plane.token(role.name.lower()) for role in (Role.VIEWER, Role.OPERATOR, Role.ADMIN)}
    for path, method in methods(*PUBLIC).items():
        least = RPCS[path].role
        assert await status_of(tcp, path, method, tokens[least]) in ALLOWED_STATUS, path
        if least > Role.VIEWER:
            below = tokens[Role(least - 1)]
            assert await status_of(tcp, path, method, below) is grpc.StatusCode.PERMISSION_DENIED, path
        assert await status_of(tcp, path, method) is grpc.StatusCode.UNAUTHENTICATED, path


async def test_the_unix_socket_makes_everybody_admin(plane: Plane, unix: grpc.aio.Channel):
    for path, method in methods(*PUBLIC).items():
        assert await status_of(unix, path, method) in ALLOWED_STATUS, path


@pytest.mark.parametrize("header", ["Bearer wrong", "Bearer ", "Basic YTpi", "nonsense"])
async def test_a_bad_credential_is_unauthenticated_with_a_clear_text(plane: Plane, tcp: grpc.aio.Channel, header: str):
    stub = queue_pb2_grpc.QueueServiceStub(tcp)
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await stub.GetStats(queue_api.GetStatsRequest(), metadata=[("authorization", header)])
    assert failure.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "token" in failure.value.details().lower()


async def test_a_revoked_token_ends_at_once(plane: Plane, tcp: grpc.aio.Channel):
    stub = queue_pb2_grpc.QueueServiceStub(tcp)
    metadata = [("authorization", f"Bearer {plane.token('viewer')}")]
    await stub.GetStats(queue_api.GetStatsRequest(), metadata=metadata)
    plane.directory.revoke_token("a-viewer", author="test")
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await stub.GetStats(queue_api.GetStatsRequest(), metadata=metadata)
    assert failure.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_denial_names_the_role_that_is_needed_and_carries_its_detail(plane: Plane, tcp: grpc.aio.Channel):
    stub = queue_pb2_grpc.QueueServiceStub(tcp)
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await stub.HoldMessages(queue_api.HoldMessagesRequest(), metadata=[("authorization", f"Bearer {plane.token('viewer')}")])
    assert failure.value.details() == "HoldMessages needs the role operator; token:a-viewer is viewer"
    detail = dict(failure.value.trailing_metadata())["gatepost-error-bin"]
    assert common.ErrorInfo.FromString(detail).reason == common.ERROR_REASON_PERMISSION_DENIED


async def test_a_client_certificate_has_the_role_of_its_common_name(tmp_path: Path):
    async with Plane(tmp_path, client_ca=True) as plane:
        plane.authority.server_context("ops.example")
        plane.authority.server_context("stranger.example")
        for name, allowed in (("ops.example", True), ("stranger.example", False)):
            pem = (plane.authority.directory / f"{name}.pem").read_bytes()
            credentials = grpc.ssl_channel_credentials(plane.authority.ca_file.read_bytes(), pem, pem)
            async with grpc.aio.secure_channel(plane.tcp, credentials) as channel:
                held = await status_of(channel, *_hold())
                drained = await status_of(channel, *_method("server", "ServerService/Drain"))
            if allowed:
                assert held is grpc.StatusCode.INVALID_ARGUMENT  # reached the servicer
                assert drained is grpc.StatusCode.PERMISSION_DENIED  # operator, not admin
            else:
                assert held is drained is grpc.StatusCode.UNAUTHENTICATED


async def test_with_a_client_ca_nobody_gets_in_without_a_certificate(tmp_path: Path):
    async with Plane(tmp_path, client_ca=True) as plane:
        credentials = grpc.ssl_channel_credentials(plane.authority.ca_file.read_bytes())
        async with grpc.aio.secure_channel(plane.tcp, credentials) as channel:
            assert await status_of(channel, *_hold(), token=plane.token("admin")) is grpc.StatusCode.UNAVAILABLE


def _method(noun: str, name: str) -> tuple[str, Any]:
    path = f"/gatepost.api.{noun}.v1.{name}"
    return path, methods(noun)[path]


def _hold() -> tuple[str, Any]:
    return _method("queue", "QueueService/HoldMessages")


async def test_a_domain_admin_may_call_what_is_opened_to_him_and_nothing_else(plane: Plane, tcp: grpc.aio.Channel):
    _, secret = plane.directory.create_token("of-one", "domain_admin", author="test", domains=["example.org"])
    opened = {path.rpartition("/")[2] for path, rule in RPCS.items() if rule.by_domain}
    assert opened == {"ListQuarantined", "GetQuarantined", "ReleaseQuarantined", "ReleaseAndAllow", "DeleteQuarantined"}
    for path, method in methods(*PUBLIC).items():
        status = await status_of(tcp, path, method, secret)
        if RPCS[path].by_domain:
            assert status in ALLOWED_STATUS | {grpc.StatusCode.PERMISSION_DENIED}, path
        else:
            assert status is grpc.StatusCode.PERMISSION_DENIED, path
