"""Every call of every service, over TLS, by every role: open to the role that its proto names and those above it, to no other."""

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import grpc
import pytest

from support.control import Plane

PROTOS = Path(__file__).parents[3] / "proto"
INTERNAL = ("worker",)
ROLES = ("nobody", "viewer", "operator", "admin")
_CALL = re.compile(r"((?:^[ ]*//[^\n]*\n)+)[ ]*rpc (\w+)\(", re.MULTILINE)
DENIED = {grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED}
HARMLESS = {"ServerService": ("Drain", "Reload")}
"""Calls that an empty request carries out, to the harm of the test: only tried by those who may not."""


def services() -> Iterator[tuple[str, Any, dict[str, str]]]:
    """Of each service its name, its descriptor, and what its proto says: the least role for each call."""
    for file in sorted(PROTOS.glob("gatepost/api/*/v1/*.proto")):
        name = file.stem
        if name in INTERNAL:
            continue
        found = {call: re.search(r"Role: (\w+)", words) for words, call in _CALL.findall(file.read_text())}
        module = import_module(f"gatepost.api.{name}.v1.{name}_pb2")
        for service in module.DESCRIPTOR.services_by_name.values():
            yield service.name, service, {call: role[1] if role else "" for call, role in found.items()}


SERVICES = {name: (service, roles) for name, service, roles in services()}


@pytest.mark.parametrize("name", SERVICES)
async def test_a_call_is_open_to_the_role_its_proto_names_and_to_no_lesser_one(plane: Plane, name: str) -> None:
    service, least = SERVICES[name]
    for role in ROLES:
        metadata = () if role == "nobody" else (("authorization", f"Bearer {plane.token(role)}"),)
        credentials = grpc.ssl_channel_credentials(plane.authority.ca_file.read_bytes())
        async with grpc.aio.secure_channel(plane.tcp, credentials) as channel:
            for method in service.methods:
                wanted = least[method.name]
                assert wanted in ROLES, f"{name}.{method.name}: its proto names no role"
                may = ROLES.index(role) >= ROLES.index(wanted)
                if may and method.name in HARMLESS.get(name, ()):
                    continue
                code = await _code_of(channel, service, method, metadata, 1 if may else 30)
                assert (code in DENIED) != may, f"{role}: {name}.{method.name} says {code}"


async def _code_of(channel: grpc.aio.Channel, service: Any, method: Any, metadata: Any, seconds: float) -> grpc.StatusCode:
    """What an empty request is answered with; one that is let in may go on without an end."""
    kind = f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}"
    call = getattr(channel, kind)(f"/{service.full_name}/{method.name}", lambda message: message, lambda octets: octets)
    given = iter([b""]) if method.client_streaming else b""
    try:
        answer = call(given, metadata=metadata, timeout=seconds)
        if method.server_streaming:
            async for _ in answer:
                break
            answer.cancel()
        else:
            await answer
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK
