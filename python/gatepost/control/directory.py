"""DirectoryService over the directory: users, volumes, tokens. Served by the supervisor.

Directory calls run in threads (hashing a password takes tens of milliseconds). `changed` is awaited after each change, see rules.py.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from gatepost.api.common.v1 import common_pb2 as common
from gatepost.api.directory.v1 import directory_pb2 as api
from gatepost.api.directory.v1 import directory_pb2_grpc
from gatepost.control.access import author
from gatepost.control.convert import timestamp
from gatepost.control.errors import invalid
from gatepost.control.paging import page
from gatepost.control.server import Service
from gatepost.directory import Directory, Token, User, Volume

Purge = Callable[[str, bytes], Awaitable[None]]
"""Remove the mailbox with this volume and id, mail included."""


class DirectoryServicer(directory_pb2_grpc.DirectoryServiceServicer):
    """`purge` asks a worker to delete a mailbox."""

    def __init__(self, directory: Directory, changed: Callable[[], Awaitable[None]], purge: Purge) -> None:
        self._directory = directory
        self._changed = changed
        self._purge = purge

    def service(self) -> Service:
        """For ControlServer."""
        add = directory_pb2_grpc.add_DirectoryServiceServicer_to_server
        return Service("gatepost.api.directory.v1.DirectoryService", self, add)

    async def CreateUser(self, request: api.CreateUserRequest, context: object) -> api.CreateUserResponse:
        """See the proto."""
        user = await asyncio.to_thread(
            self._directory.add_user, request.address, request.password or None, request.volume or "main", author=author()
        )
        await self._changed()
        return api.CreateUserResponse(user=_user(user))

    async def GetUser(self, request: api.GetUserRequest, context: object) -> api.GetUserResponse:
        """See the proto."""
        return api.GetUserResponse(user=_user(await asyncio.to_thread(self._directory.get_user, request.address)))

    async def ListUsers(self, request: api.ListUsersRequest, context: object) -> api.ListUsersResponse:
        """See the proto."""
        users = await asyncio.to_thread(self._directory.list_users, request.domain or None)
        chosen, token = page(users, lambda user: user.address, request.page_size, request.page_token)
        return api.ListUsersResponse(users=map(_user, chosen), next_page_token=token)

    async def UpdateUser(self, request: api.UpdateUserRequest, context: object) -> api.UpdateUserResponse:
        """See the proto."""
        if list(request.update_mask.paths) != ["enabled"]:
            raise invalid("update_mask", "must be exactly 'enabled'")
        user = await asyncio.to_thread(
            self._directory.set_enabled, request.user.address, request.user.enabled, etag=request.etag or None, author=author()
        )
        await self._changed()
        return api.UpdateUserResponse(user=_user(user))

    async def SetPassword(self, request: api.SetPasswordRequest, context: object) -> api.SetPasswordResponse:
        """See the proto."""
        if not request.password:
            raise invalid("password", "must not be empty")
        user = await asyncio.to_thread(
            self._directory.set_password, request.address, request.password, etag=request.etag or None, author=author()
        )
        await self._changed()
        return api.SetPasswordResponse(user=_user(user))

    async def DeleteUser(self, request: api.DeleteUserRequest, context: object) -> api.DeleteUserResponse:
        """See the proto."""
        user = await asyncio.to_thread(self._directory.remove_user, request.address, etag=request.etag or None, author=author())
        await self._changed()
        if request.purge_mail:
            await self._purge(user.volume, user.mailbox_id)
        return api.DeleteUserResponse()

    async def CreateVolume(self, request: api.CreateVolumeRequest, context: object) -> api.CreateVolumeResponse:
        """See the proto."""
        if not request.path.startswith("/"):
            raise invalid("path", "must be absolute")
        volume = await asyncio.to_thread(self._directory.add_volume, request.name, request.path, author=author())
        await self._changed()
        return api.CreateVolumeResponse(volume=_volume(volume))

    async def GetVolume(self, request: api.GetVolumeRequest, context: object) -> api.GetVolumeResponse:
        """See the proto."""
        return api.GetVolumeResponse(volume=_volume(await asyncio.to_thread(self._directory.get_volume, request.name)))

    async def ListVolumes(self, request: api.ListVolumesRequest, context: object) -> api.ListVolumesResponse:
        """See the proto."""
        volumes = await asyncio.to_thread(self._directory.list_volumes)
        chosen, token = page(volumes, lambda volume: volume.name, request.page_size, request.page_token)
        return api.ListVolumesResponse(volumes=map(_volume, chosen), next_page_token=token)

    async def DeleteVolume(self, request: api.DeleteVolumeRequest, context: object) -> api.DeleteVolumeResponse:
        """See the proto."""
        await asyncio.to_thread(self._directory.remove_volume, request.name, etag=request.etag or None, author=author())
        await self._changed()
        return api.DeleteVolumeResponse()

    async def CreateToken(self, request: api.CreateTokenRequest, context: object) -> api.CreateTokenResponse:
        """See the proto."""
        try:
            role = common.Role.Name(request.role).removeprefix("ROLE_").lower()
        except ValueError:
            role = ""
        if role in ("", "unspecified"):
            raise invalid("role", "is needed: VIEWER, OPERATOR, ADMIN or DOMAIN_ADMIN")
        make = partial(self._directory.create_token, request.name, role, author=author(), domains=list(request.domains))
        token, secret = await asyncio.to_thread(make)
        return api.CreateTokenResponse(token=_token(token), secret=secret)

    async def ListTokens(self, request: api.ListTokensRequest, context: object) -> api.ListTokensResponse:
        """See the proto."""
        tokens = await asyncio.to_thread(self._directory.list_tokens)
        chosen, token = page(tokens, lambda entry: entry.name, request.page_size, request.page_token)
        return api.ListTokensResponse(tokens=map(_token, chosen), next_page_token=token)

    async def RevokeToken(self, request: api.RevokeTokenRequest, context: object) -> api.RevokeTokenResponse:
        """See the proto."""
        await asyncio.to_thread(self._directory.revoke_token, request.name, author=author())
        return api.RevokeTokenResponse()


def _user(user: User) -> api.User:
    return api.User(
        address=user.address,
        volume=user.volume,
        enabled=user.enabled,
        has_password=user.has_password,
        create_time=timestamp(user.created_at),
        etag=user.etag,
    )


def _volume(volume: Volume) -> api.Volume:
    return api.Volume(name=volume.name, path=volume.path, etag=volume.etag)


def _token(token: Token) -> api.Token:
    role = common.Role.Value(f"ROLE_{token.role.upper()}")
    return api.Token(name=token.name, role=role, create_time=timestamp(token.created_at), domains=token.domains)
