"""Where the server is, and a channel to it with deadlines and our errors. Used by the service classes of the SDK.

The server is found by, strongest first: an address, a data directory, GATEPOST_SERVER, GATEPOST_DATA, ./var.
Over TCP the channel uses TLS unless the caller says plain text; the token comes from the argument or GATEPOST_TOKEN.
"""

import asyncio
import getpass
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc
import grpc.aio

from gatepost.client.errors import GatepostError, NotRunningError, from_rpc, not_running_text

DEFAULT_TIMEOUT = 30.0
BULK_TIMEOUT = 650.0
BODY_TIMEOUT = 600.0
MAX_MESSAGE_BYTES = 16 << 20
MAX_UNIX_PATH = 100
_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Target:
    """Where to connect. address: 'unix:PATH' or 'host:port'."""

    address: str
    token: str = ""
    ca: bytes = b""
    certificate: bytes = b""
    key: bytes = b""
    server_name: str = ""
    plaintext: bool = False


def find_target(
    data: str | os.PathLike[str] | None = None,
    *,
    address: str = "",
    token: str = "",
    ca_file: str | os.PathLike[str] | None = None,
    certificate_file: str | os.PathLike[str] | None = None,
    key_file: str | os.PathLike[str] | None = None,
    server_name: str = "",
    plaintext: bool = False,
) -> Target:
    """The server meant by these, or by the environment. Raises NotRunningError when there is nothing to go by, OSError for a bad file."""
    if not address and data is None:
        address = os.environ.get("GATEPOST_SERVER", "")
    if address and not address.startswith("unix:"):
        return Target(
            address,
            token=token or os.environ.get("GATEPOST_TOKEN", ""),
            ca=_contents(ca_file),
            certificate=_contents(certificate_file),
            key=_contents(key_file),
            server_name=server_name,
            plaintext=plaintext,
        )
    return Target(address or f"unix:{data_directory(data) / 'control.sock'}")


def _contents(name: str | os.PathLike[str] | None) -> bytes:
    return Path(name).read_bytes() if name else b""


def data_directory(data: str | os.PathLike[str] | None = None) -> Path:
    """The data directory meant: the argument, GATEPOST_DATA, or ./var. Raises NotRunningError when it cannot be guessed."""
    chosen = data or os.environ.get("GATEPOST_DATA")
    if chosen:
        return Path(chosen).absolute()
    guess = Path("var").absolute()
    if not guess.is_dir():
        raise NotRunningError(
            "no server: which data directory? give --data DIR or set GATEPOST_DATA (there is no ./var); "
            "gatepost serve --data DIR starts one"
        )
    return guess


class Connection:
    """One channel. Use inside a running event loop; close it at the end."""

    def __init__(self, target: Target, timeout: float = DEFAULT_TIMEOUT) -> None:
        self.address = target.address
        self.timeout = timeout
        self._fd = -1
        self._metadata = self._credentials(target)
        self._check(target)
        self.channel = self._open(target)

    def _credentials(self, target: Target) -> tuple[tuple[str, str], ...]:
        if target.address.startswith("unix:"):
            return (("gatepost-user", _login_name()),)
        return (("authorization", f"Bearer {target.token}"),) if target.token else ()

    def _check(self, target: Target) -> None:
        path = target.address.removeprefix("unix:")
        if path != target.address and not os.path.exists(path):
            raise NotRunningError(not_running_text(target.address), status="UNAVAILABLE", resource=path)

    def _open(self, target: Target) -> grpc.aio.Channel:
        if target.address.startswith("unix:"):
            return grpc.aio.insecure_channel(self._unix(target.address), options=_OPTIONS)
        if target.plaintext:
            return grpc.aio.insecure_channel(target.address, options=_OPTIONS)
        credentials = grpc.ssl_channel_credentials(target.ca or None, target.key or None, target.certificate or None)
        options = [*_OPTIONS, ("grpc.ssl_target_name_override", target.server_name)] if target.server_name else _OPTIONS
        return grpc.aio.secure_channel(target.address, credentials, options=options)

    def _unix(self, address: str) -> str:
        """A path too long for sockaddr_un is reached through a descriptor of its directory."""
        path = Path(address.removeprefix("unix:"))
        if len(os.fsencode(path)) <= MAX_UNIX_PATH:
            return address
        self._fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return f"unix:/proc/self/fd/{self._fd}/{path.name}"

    async def close(self) -> None:
        """Close the channel; calls under way fail."""
        await self.channel.close(None)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    async def call(self, method: Any, request: Any, timeout: float | None = None) -> Any:
        """One request, one answer. Raises GatepostError."""
        try:
            return await method(request, timeout=timeout or self.timeout, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error, self.address) from error

    async def stream(self, method: Any, request: Any, timeout: float | None = None, *, wait: Callable[[], None] | None = None) -> Any:
        """One request, many answers. `wait` is called once the server has begun. Ending the iteration cancels the call."""
        call = method(request, timeout=timeout, metadata=self._metadata)
        try:
            if wait is not None:
                await call.initial_metadata()
                wait()
            async for answer in call:
                yield answer
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error, self.address) from error
        finally:
            call.cancel()

    async def upload(self, method: Any, requests: AsyncIterator[Any], timeout: float = BODY_TIMEOUT) -> Any:
        """Many requests, one answer. A failure of `requests` itself cancels the call, so half a message is never taken for a whole."""
        call = method(timeout=timeout, metadata=self._metadata)
        try:
            async for request in requests:
                if call.done():
                    break
                await call.write(request)
            await call.done_writing()
        except asyncio.InvalidStateError:
            pass  # the server ended the call while we wrote; awaiting it says why
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error, self.address) from error
        except BaseException:
            call.cancel()
            raise
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error, self.address) from error


Warn = Callable[[str], None]
"""Called with each warning of a partial answer, once."""


async def pages(
    fetch: Callable[[str], Awaitable[Any]],
    items: Callable[[Any], Any],
    limit: int | None = None,
    *,
    warn: Warn | None = None,
) -> AsyncIterator[Any]:
    """Items of all pages. `fetch` takes a page token; at most `limit` items."""
    token, given = "", 0
    warned: set[str] = set()
    while True:
        answer = await fetch(token)
        if warn is not None:
            for warning in answer.warnings:
                if warning not in warned:
                    warned.add(warning)
                    warn(warning)
        for item in items(answer):
            if limit is not None and given >= limit:
                return
            given += 1
            yield item
        token = answer.next_page_token
        if not token:
            return


def _login_name() -> str:
    try:
        return "".join(c for c in getpass.getuser() if c.isascii() and c.isprintable()) or str(os.getuid())
    except (KeyError, OSError):  # no name for this uid, as in many containers
        return f"uid{os.getuid()}"


__all__ = ["BODY_TIMEOUT", "BULK_TIMEOUT", "Connection", "GatepostError", "Target", "data_directory", "find_target", "pages"]
