"""Users, volumes, tokens, mailboxes. `client.directory` and `client.mailboxes` of GatepostClient."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask

from gatepost.api.common.v1 import common_pb2 as common
from gatepost.api.directory.v1 import directory_pb2 as api
from gatepost.api.directory.v1 import directory_pb2_grpc
from gatepost.api.mailbox.v1 import mailbox_pb2 as mailbox_api
from gatepost.api.mailbox.v1 import mailbox_pb2_grpc
from gatepost.client.connection import BULK_TIMEOUT, Connection, pages
from gatepost.client.values import Folder, Mailbox, Token, User, Volume, number, time_value, word


class Directory:
    """Every method raises the errors of gatepost.client.errors. An etag '' means: whatever is there now."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = directory_pb2_grpc.DirectoryServiceStub(connection.channel)

    async def create_user(self, address: str, password: str = "", *, volume: str = "") -> User:
        """Add a user; without a password nobody can log in as it yet."""
        request = api.CreateUserRequest(address=address, password=password, volume=volume)
        return _user((await self._connection.call(self._stub.CreateUser, request)).user)

    async def get_user(self, address: str) -> User:
        """One user."""
        return _user((await self._connection.call(self._stub.GetUser, api.GetUserRequest(address=address))).user)

    async def list_users(self, domain: str = "") -> AsyncIterator[User]:
        """Users by address, all or of one domain."""

        async def fetch(token: str) -> Any:
            return await self._connection.call(self._stub.ListUsers, api.ListUsersRequest(domain=domain, page_token=token))

        async for user in pages(fetch, lambda answer: answer.users):
            yield _user(user)

    async def set_enabled(self, address: str, enabled: bool, *, etag: str = "") -> User:
        """Let a user log in and get mail, or not."""
        mask = FieldMask(paths=["enabled"])
        request = api.UpdateUserRequest(user=api.User(address=address, enabled=enabled), update_mask=mask, etag=etag)
        return _user((await self._connection.call(self._stub.UpdateUser, request)).user)

    async def set_password(self, address: str, password: str, *, etag: str = "") -> User:
        """Set a new password; the user with its new etag."""
        request = api.SetPasswordRequest(address=address, password=password, etag=etag)
        return _user((await self._connection.call(self._stub.SetPassword, request)).user)

    async def delete_user(self, address: str, *, etag: str = "", purge_mail: bool = False) -> None:
        """Remove a user; the mail stays unless it is purged, which cannot be undone."""
        request = api.DeleteUserRequest(address=address, etag=etag, purge_mail=purge_mail)
        await self._connection.call(self._stub.DeleteUser, request, BULK_TIMEOUT)

    async def create_volume(self, name: str, path: str) -> Volume:
        """Add a volume at an absolute path on the server."""
        answer = await self._connection.call(self._stub.CreateVolume, api.CreateVolumeRequest(name=name, path=path))
        return _volume(answer.volume)

    async def get_volume(self, name: str) -> Volume:
        """One volume."""
        return _volume((await self._connection.call(self._stub.GetVolume, api.GetVolumeRequest(name=name))).volume)

    async def delete_volume(self, name: str, *, etag: str = "") -> None:
        """Take a volume without mailboxes out of use; its files stay. Raises InUseError for one that has users, and for 'main'."""
        await self._connection.call(self._stub.DeleteVolume, api.DeleteVolumeRequest(name=name, etag=etag))

    async def list_volumes(self) -> AsyncIterator[Volume]:
        """Volumes by name."""

        async def fetch(token: str) -> Any:
            return await self._connection.call(self._stub.ListVolumes, api.ListVolumesRequest(page_token=token))

        async for volume in pages(fetch, lambda answer: answer.volumes):
            yield _volume(volume)

    async def create_token(self, name: str, role: str, domains: Sequence[str] = ()) -> tuple[Token, str]:
        """Make a token for calls over TCP; its secret is shown this one time.

        role: 'viewer', 'operator', 'admin', or 'domain_admin' of these domains.
        """
        request = api.CreateTokenRequest(name=name, role=number(common.Role, role, "ROLE_", "role"), domains=domains)
        answer = await self._connection.call(self._stub.CreateToken, request)
        return _token(answer.token), answer.secret

    async def list_tokens(self) -> AsyncIterator[Token]:
        """Tokens by name."""

        async def fetch(token: str) -> Any:
            return await self._connection.call(self._stub.ListTokens, api.ListTokensRequest(page_token=token))

        async for one in pages(fetch, lambda answer: answer.tokens):
            yield _token(one)

    async def revoke_token(self, name: str) -> None:
        """End a token at once."""
        await self._connection.call(self._stub.RevokeToken, api.RevokeTokenRequest(name=name))


class Mailboxes:
    """Every method raises the errors of gatepost.client.errors."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = mailbox_pb2_grpc.MailboxServiceStub(connection.channel)

    async def list(self, domain: str = "") -> AsyncIterator[Mailbox]:
        """Mailboxes with usage, by address."""

        async def fetch(token: str) -> Any:
            request = mailbox_api.ListMailboxesRequest(domain=domain, page_token=token)
            return await self._connection.call(self._stub.ListMailboxes, request)

        async for mailbox in pages(fetch, lambda answer: answer.mailboxes):
            yield _mailbox(mailbox)

    async def get(self, address: str) -> Mailbox:
        """One mailbox."""
        answer = await self._connection.call(self._stub.GetMailbox, mailbox_api.GetMailboxRequest(address=address))
        return _mailbox(answer.mailbox)

    async def folders(self, address: str) -> AsyncIterator[Folder]:
        """Folders by name, INBOX first."""

        async def fetch(token: str) -> Any:
            return await self._connection.call(self._stub.ListFolders, mailbox_api.ListFoldersRequest(address=address, page_token=token))

        async for folder in pages(fetch, lambda answer: answer.folders):
            yield Folder(**{field.name: getattr(folder, field.name) for field in mailbox_api.Folder.DESCRIPTOR.fields})

    async def purge(self, address: str) -> None:
        """Remove the mailbox of a disabled user for good."""
        await self._connection.call(self._stub.PurgeMailbox, mailbox_api.PurgeMailboxRequest(address=address), BULK_TIMEOUT)


def _user(user: api.User) -> User:
    return User(user.address, user.volume, user.enabled, user.has_password, time_value(user.create_time), user.etag)


def _volume(volume: api.Volume) -> Volume:
    return Volume(volume.name, volume.path, volume.etag)


def _token(token: api.Token) -> Token:
    return Token(token.name, word(common.Role, token.role, "ROLE_"), time_value(token.create_time), tuple(token.domains))


def _mailbox(mailbox: mailbox_api.Mailbox) -> Mailbox:
    return Mailbox(**{field.name: getattr(mailbox, field.name) for field in mailbox_api.Mailbox.DESCRIPTOR.fields})
