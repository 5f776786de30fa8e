"""Mailing lists: members, posts that wait, signed links. `client.lists` of GatepostClient."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from gatepost.api.lists.v1 import lists_pb2 as api
from gatepost.api.lists.v1 import lists_pb2_grpc
from gatepost.client.connection import Connection, pages


@dataclass(frozen=True, slots=True)
class MailingList:
    """A list; members are those who get posts, held the posts that wait."""

    address: str
    name: str
    members: int
    held: int
    self_subscribe: bool


@dataclass(frozen=True, slots=True)
class Member:
    """state: 'subscribed', 'unsubscribed' or 'disabled'. in_handler: a target of the list's handler."""

    address: str
    state: str
    digest: bool
    in_handler: bool
    bounces: int
    bounced_at: datetime | None
    changed_at: datetime | None


@dataclass(frozen=True, slots=True)
class HeldPost:
    """A post that waits for an owner."""

    list: str
    message_id: str
    sender: str
    author: str
    subject: str
    received: datetime


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a link does, or did (`done`). member or post: what it is about."""

    action: str
    list: str
    done: bool
    text: str
    member: Member | None
    post: HeldPost | None


class Lists:
    """Every method raises the errors of gatepost.client.errors."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = lists_pb2_grpc.ListsServiceStub(connection.channel)

    async def list(self) -> AsyncIterator[MailingList]:
        """All lists."""

        async def fetch(token: str) -> Any:
            return await self._connection.call(self._stub.ListMailingLists, api.ListMailingListsRequest(page_token=token))

        async for one in pages(fetch, lambda answer: answer.lists):
            yield MailingList(one.address, one.name, one.member_count, one.held_count, one.self_subscribe)

    async def members(self, address: str) -> AsyncIterator[Member]:
        """Members of a list, and who signed off."""

        async def fetch(token: str) -> Any:
            return await self._connection.call(self._stub.ListMembers, api.ListMembersRequest(list=address, page_token=token))

        async for one in pages(fetch, lambda answer: answer.members):
            yield _member(one)

    async def set_member(self, address: str, member: str, *, state: str = "", digest: bool | None = None) -> Member:
        """Add somebody, or change what is known of him; '' and None leave it as it is."""
        wanted = api.MemberState.Value(f"MEMBER_STATE_{(state or 'unspecified').upper()}")
        request = api.SetMemberRequest(list=address, address=member, state=wanted, digest=digest)
        return _member((await self._connection.call(self._stub.SetMember, request)).member)

    async def forget_member(self, address: str, member: str) -> None:
        """He is again what the handler makes of him."""
        await self._connection.call(self._stub.ForgetMember, api.ForgetMemberRequest(list=address, address=member))

    async def held(self, address: str = "") -> Sequence[HeldPost]:
        """Posts that wait, oldest first."""
        answer = await self._connection.call(self._stub.ListHeldPosts, api.ListHeldPostsRequest(list=address))
        return [_post(one) for one in answer.posts]

    async def approve(self, address: str, message_id: str) -> HeldPost:
        """Let a post go."""
        request = api.ApprovePostRequest(list=address, message_id=message_id)
        return _post((await self._connection.call(self._stub.ApprovePost, request)).post)

    async def reject(self, address: str, message_id: str, *, send_dsn: bool = False) -> HeldPost:
        """Remove a post."""
        request = api.RejectPostRequest(list=address, message_id=message_id, send_dsn=send_dsn)
        return _post((await self._connection.call(self._stub.RejectPost, request)).post)

    async def link(self, address: str, member: str, action: str) -> tuple[str, str]:
        """A signed link of a member: token and URL ('' without lists.link_base)."""
        wanted = api.ListAction.Value(f"LIST_ACTION_{action.upper()}")
        request = api.MakeMemberLinkRequest(list=address, address=member, action=wanted)
        answer = await self._connection.call(self._stub.MakeMemberLink, request)
        return answer.link_token, answer.url

    async def resolve(self, token: str, *, dry_run: bool = False, choice: str = "") -> Resolved:
        """Do what a link stands for, or with dry_run only tell."""
        wanted = api.ListAction.Value(f"LIST_ACTION_{(choice or 'unspecified').upper()}")
        request = api.ResolveListLinkRequest(link_token=token, dry_run=dry_run, choice=wanted)
        answer = await self._connection.call(self._stub.ResolveListLink, request)
        action = api.ListAction.Name(answer.action).removeprefix("LIST_ACTION_").lower()
        member = _member(answer.member) if answer.HasField("member") else None
        return Resolved(action, answer.list, answer.done, answer.text, member, _post(answer.post) if answer.HasField("post") else None)


def _member(one: api.Member) -> Member:
    state = api.MemberState.Name(one.state).removeprefix("MEMBER_STATE_").lower()
    bounced = one.bounce_time.ToDatetime(UTC) if one.HasField("bounce_time") else None
    changed = one.change_time.ToDatetime(UTC) if one.HasField("change_time") else None
    return Member(one.address, state, one.digest, one.in_handler, one.bounce_count, bounced, changed)


def _post(one: api.HeldPost) -> HeldPost:
    return HeldPost(one.list, one.message_id, one.sender, one.author, one.subject, one.receive_time.ToDatetime(UTC))
