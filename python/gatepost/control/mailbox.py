"""MailboxService: of a worker, over the volumes it has open; of the supervisor, passed on to any healthy worker.

Store calls run in threads (AsyncStore.run). Errors: see control.errors.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc.aio

from gatepost.api.common.v1 import common_pb2 as common
from gatepost.api.mailbox.v1 import mailbox_pb2 as api
from gatepost.api.mailbox.v1 import mailbox_pb2_grpc
from gatepost.control.errors import from_rpc, invalid, not_found, precondition
from gatepost.control.paging import page
from gatepost.control.server import Service
from gatepost.control.workers import CALL_SECONDS, WorkerLinks
from gatepost.mailbox import Volumes
from gatepost.routing.model import Mailbox, RuleSet

PURGE_SECONDS = 120.0


class MailboxServicer(mailbox_pb2_grpc.MailboxServiceServicer):
    """Of a worker."""

    def __init__(self, volumes: Volumes, rule_set: Callable[[], RuleSet]) -> None:
        self._volumes = volumes
        self._rule_set = rule_set

    def service(self) -> Service:
        """For ControlServer."""
        return _service(self)

    async def ListMailboxes(self, request: api.ListMailboxesRequest, context: object) -> api.ListMailboxesResponse:
        """See the proto."""
        domain = request.domain.lower()
        chosen, token = page(
            (one for one in self._rule_set().mailboxes.values() if not domain or one.address.rpartition("@")[2] == domain),
            lambda one: one.address,
            request.page_size,
            request.page_token,
        )
        return api.ListMailboxesResponse(mailboxes=[await self._proto(one) for one in chosen], next_page_token=token)

    async def GetMailbox(self, request: api.GetMailboxRequest, context: object) -> api.GetMailboxResponse:
        """See the proto."""
        return api.GetMailboxResponse(mailbox=await self._proto(self._known(request.address)))

    async def ListFolders(self, request: api.ListFoldersRequest, context: object) -> api.ListFoldersResponse:
        """See the proto."""
        mailbox = self._known(request.address)
        store = self._volumes.by_name(mailbox.volume)
        await store.run("ensure_mailbox", mailbox.mailbox_id)
        folders = [_folder(info) for info in await store.run("folders", mailbox.mailbox_id)]
        chosen, token = page(folders, _folder_key, request.page_size, request.page_token)
        return api.ListFoldersResponse(folders=chosen, next_page_token=token)

    async def PurgeMailbox(self, request: api.PurgeMailboxRequest, context: object) -> api.PurgeMailboxResponse:
        """See the proto."""
        volume, mailbox_id = self._target(request)
        known = self._known(request.address) if request.address else await asyncio.to_thread(self._of_id, mailbox_id)
        if known is not None and known.enabled:
            raise precondition(common.ERROR_REASON_IN_USE, f"{known.address} is enabled; disable or remove the user first", known.address)
        await self._volumes.by_name(volume).run("delete_mailbox", mailbox_id)
        return api.PurgeMailboxResponse()

    def _of_id(self, mailbox_id: bytes) -> Mailbox | None:
        """*blocking* Whose it is. All are gone through: what is purged by its id is, as a rule, nobody's any more."""
        return next((one for one in self._rule_set().mailboxes.values() if one.mailbox_id == mailbox_id), None)

    def _target(self, request: api.PurgeMailboxRequest) -> tuple[str, bytes]:
        if request.address:
            mailbox = self._known(request.address)
            return mailbox.volume, mailbox.mailbox_id
        try:
            mailbox_id = bytes.fromhex(request.mailbox_id)
        except ValueError:
            mailbox_id = b""
        if len(mailbox_id) != 16 or not request.volume:
            raise invalid("mailbox_id", "an address is needed, or mailbox_id (32 hexadecimal digits) and volume")
        return request.volume, mailbox_id

    def _known(self, address: str) -> Mailbox:
        mailbox = self._rule_set().mailboxes.get(address.lower())
        if mailbox is None:
            raise not_found("mailbox", address)
        return mailbox

    async def _proto(self, mailbox: Mailbox) -> api.Mailbox:
        octets, messages = await self._volumes.by_name(mailbox.volume).run("mailbox_usage", mailbox.mailbox_id)
        return api.Mailbox(
            address=mailbox.address,
            volume=mailbox.volume,
            enabled=mailbox.enabled,
            used_octets=octets,
            messages=messages,
            mailbox_id=mailbox.mailbox_id.hex(),
        )


class MailboxProxy(mailbox_pb2_grpc.MailboxServiceServicer):
    """Of the supervisor: every worker has every volume open, so any one can answer."""

    def __init__(self, links: WorkerLinks) -> None:
        self._links = links

    def service(self) -> Service:
        """For ControlServer."""
        return _service(self)

    async def ListMailboxes(self, request: api.ListMailboxesRequest, context: object) -> api.ListMailboxesResponse:
        """See the proto."""
        answer: api.ListMailboxesResponse = await self._pass_on("ListMailboxes", request)
        return answer

    async def GetMailbox(self, request: api.GetMailboxRequest, context: object) -> api.GetMailboxResponse:
        """See the proto."""
        answer: api.GetMailboxResponse = await self._pass_on("GetMailbox", request)
        return answer

    async def ListFolders(self, request: api.ListFoldersRequest, context: object) -> api.ListFoldersResponse:
        """See the proto."""
        answer: api.ListFoldersResponse = await self._pass_on("ListFolders", request)
        return answer

    async def PurgeMailbox(self, request: api.PurgeMailboxRequest, context: object) -> api.PurgeMailboxResponse:
        """See the proto."""
        answer: api.PurgeMailboxResponse = await self._pass_on("PurgeMailbox", request, PURGE_SECONDS)
        return answer

    async def purge(self, volume: str, mailbox_id: bytes) -> None:
        """For DirectoryServicer: remove a mailbox whose user is gone."""
        await self._pass_on("PurgeMailbox", api.PurgeMailboxRequest(mailbox_id=mailbox_id.hex(), volume=volume), PURGE_SECONDS)

    async def _pass_on(self, name: str, request: Any, timeout: float = CALL_SECONDS) -> Any:
        link = await self._links.pick_healthy()
        try:
            return await getattr(link.mailbox, name)(request, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error) from error


def _service(servicer: mailbox_pb2_grpc.MailboxServiceServicer) -> Service:
    return Service("gatepost.api.mailbox.v1.MailboxService", servicer, mailbox_pb2_grpc.add_MailboxServiceServicer_to_server)


def _folder_key(folder: api.Folder) -> str:
    """INBOX before everything else."""
    return "" if folder.name == "INBOX" else f"/{folder.name}"


def _folder(info: tuple[Any, ...]) -> api.Folder:
    """From native FolderInfo."""
    _, name, special_use, subscribed, uid_validity, uid_next, messages, unseen, octets, modseq, _ = info
    return api.Folder(
        name=name,
        special_use=special_use,
        subscribed=subscribed,
        messages=messages,
        unseen=unseen,
        used_octets=octets,
        uid_validity=uid_validity,
        uid_next=uid_next,
        highest_modseq=modseq,
    )
