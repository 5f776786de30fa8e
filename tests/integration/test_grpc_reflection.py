"""A gRPC client that knows nothing but server reflection: no generated code of ours, only names it is told over the wire."""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool, json_format, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from support.gatepost import Gatepost
from support.processes import wait_until
from support.programs import message, send, unverified


class Discovered:
    """Everything a channel's server tells about itself, callable by name."""

    def __init__(self, channel: grpc.Channel, token: str = "") -> None:
        self.channel = channel
        self.metadata = [("authorization", f"Bearer {token}")] if token else []
        self.database = ProtoReflectionDescriptorDatabase(channel)
        self.pool = descriptor_pool.DescriptorPool(self.database)

    def services(self) -> list[str]:
        """Full names of all services."""
        return list(self.database.get_services())

    def call(self, service: str, method: str, **fields: Any) -> dict[str, Any]:
        """A unary call with a request made from plain values; the answer as plain values."""
        description = self.pool.FindServiceByName(service).FindMethodByName(method)
        request = json_format.ParseDict(fields, message_factory.GetMessageClass(description.input_type)())
        answer = message_factory.GetMessageClass(description.output_type)
        invoke = self.channel.unary_unary(
            f"/{service}/{method}", request_serializer=lambda value: value.SerializeToString(), response_deserializer=answer.FromString
        )
        return json_format.MessageToDict(invoke(request, metadata=self.metadata, timeout=20), preserving_proto_field_name=True)


QUEUE = "gatepost.api.queue.v1.QueueService"
RULES = "gatepost.api.rules.v1.RulesService"
HEALTH = "grpc.health.v1.Health"


@pytest.fixture
def unix(gatepost: Gatepost) -> Iterator[Discovered]:
    """Over the Unix socket, where the file's permissions are the credential."""
    with grpc.insecure_channel(f"unix:{gatepost.data / 'control.sock'}") as channel:
        yield Discovered(channel)


def test_reflection_names_every_service_and_health_is_serving(unix: Discovered) -> None:
    names = unix.services()
    for noun in ("queue", "rules", "directory", "mailbox", "server"):
        assert f"gatepost.api.{noun}.v1.{noun.capitalize()}Service" in names
    assert unix.call(HEALTH, "Check")["status"] == "SERVING"


def test_it_lists_holds_and_releases_a_message(unix: Discovered, gatepost: Gatepost) -> None:
    unix.call(RULES, "CreateDomainRule", rule={"domain": "reflected.test", "kind": "RULE_KIND_HOLD"})
    send(gatepost.port("smtp"), message("seen by reflection"), recipients="x@reflected.test")
    chosen = {"filter": {"domain": "reflected.test"}}
    (queued,) = unix.call(QUEUE, "ListMessages", **chosen)["messages"]
    assert queued["held"] is True
    assert unix.call(QUEUE, "ReleaseMessages", selection=chosen)["result"]["matched"] == "1"
    assert unix.call(QUEUE, "HoldMessages", selection={"filter": {"domain": "reflected.test"}}, dry_run=True)
    assert unix.call(QUEUE, "GetStats")


def test_tcp_needs_a_token_and_a_viewer_changes_nothing(gatepost: Gatepost) -> None:
    created = gatepost.json("token", "add", "reflection", "--role", "viewer")
    secret = created["secret"]
    with tls_channel(gatepost) as channel:
        with pytest.raises(grpc.RpcError) as refused:
            Discovered(channel).services()
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
    with grpc.insecure_channel(f"unix:{gatepost.data / 'control.sock'}") as local, tls_channel(gatepost) as channel:
        remote = Discovered(local)
        remote.channel, remote.metadata = channel, [("authorization", f"Bearer {secret}")]
        assert remote.call(QUEUE, "GetStats") is not None
        with pytest.raises(grpc.RpcError) as denied:
            remote.call(QUEUE, "HoldMessages", selection={"all": True})
        assert denied.value.code() == grpc.StatusCode.PERMISSION_DENIED


def tls_channel(server: Gatepost) -> grpc.Channel:
    """Over TCP, trusting the server's own certificate under the name that is in it."""
    certificate = (server.data / "tls" / "cert.pem").read_bytes()
    options = [("grpc.ssl_target_name_override", server.settings["hostname"])]
    channel = grpc.secure_channel(f"127.0.0.1:{server.port('control_tcp')}", grpc.ssl_channel_credentials(certificate), options)
    wait_until(lambda: grpc.channel_ready_future(channel).result(10) is None, 15, "the TLS channel is ready")
    assert unverified()
    return channel
