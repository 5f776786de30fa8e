"""ListsService over the rules and the ListStore. Served by the supervisor.

Members' wishes are stored before the answer, and `changed` is awaited, so that the caller's answer means that workers use them. A post is
approved or rejected as an operator would do it in the queue, but only when nobody else waits for the same message. The store is asked in
threads. Errors: see control.errors.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from typing import ParamSpec, TypeVar

from gatepost.api.common.v1 import common_pb2 as common
from gatepost.api.lists.v1 import lists_pb2 as api
from gatepost.api.lists.v1 import lists_pb2_grpc
from gatepost.api.queue.v1 import queue_pb2 as queue_api
from gatepost.config import Settings
from gatepost.control.convert import timestamp
from gatepost.control.errors import ControlError, Status, invalid, not_found, precondition
from gatepost.control.merge import MergedQueueServicer
from gatepost.control.paging import page
from gatepost.control.server import Service
from gatepost.message.address import AddressError, parse_address
from gatepost.message.ids import format_message_id
from gatepost.message.list_link import ListAction, ListLink, ListLinkError, read_list_link
from gatepost.queue.list_actions import PLAIN, ListRefused, carry_out, list_of, members_of
from gatepost.queue.list_store import HeldPost, ListStore, MemberRecord
from gatepost.routing.members import Member, MemberState, address_key
from gatepost.routing.model import AddressHandler, RuleSet

NAME = "gatepost.api.lists.v1.ListsService"
MAX_HELD = 500

P = ParamSpec("P")
T = TypeVar("T")
MIN_PREFIX = 8
_STATE: dict[MemberState, api.MemberState.ValueType] = {
    MemberState.SUBSCRIBED: api.MEMBER_STATE_SUBSCRIBED,
    MemberState.UNSUBSCRIBED: api.MEMBER_STATE_UNSUBSCRIBED,
    MemberState.DISABLED: api.MEMBER_STATE_DISABLED,
}
_STATE_BACK = {number: state for state, number in _STATE.items()}
_ACTION = {one: api.ListAction.Value(f"LIST_ACTION_{one.upper()}") for one in ListAction}
_ACTION_BACK = {number: one for one, number in _ACTION.items()}
MEMBER_ACTIONS = (ListAction.SUBSCRIBE, ListAction.UNSUBSCRIBE, ListAction.DIGEST, ListAction.EACH)


class ListsServicer(lists_pb2_grpc.ListsServiceServicer):
    """`rules` and `settings` give what is in force now, `lists` every (domain of the rule, handler) that is a list; `changed` spreads a
    change; `queue` has the posts.
    """

    def __init__(
        self,
        store: ListStore,
        rules: Callable[[], RuleSet],
        lists: Callable[[], list[tuple[str, AddressHandler]]],
        settings: Callable[[], Settings],
        changed: Callable[[], Awaitable[None]],
        queue: MergedQueueServicer,
    ) -> None:
        self._store = store
        self._rules = rules
        self._all = lists
        self._settings = settings
        self._changed = changed
        self._queue = queue

    def service(self) -> Service:
        """For ControlServer."""
        return Service(NAME, self, lists_pb2_grpc.add_ListsServiceServicer_to_server)

    # ---- members -----------------------------------------------------------------------------------------------------

    async def ListMailingLists(self, request: api.ListMailingListsRequest, context: object) -> api.ListMailingListsResponse:
        """See the proto."""
        found = await asyncio.to_thread(self._lists)
        chosen, token = page(found, lambda one: one[0], request.page_size, request.page_token)
        return api.ListMailingListsResponse(lists=await asyncio.to_thread(self._told, chosen), next_page_token=token)

    def _lists(self) -> list[tuple[str, AddressHandler]]:
        """*blocking* By address. Lists of rules for whole subtrees have no address of their own and are left out."""
        return [(f"{handler.pattern}@{domain}", handler) for domain, handler in self._all() if "*" not in domain]

    def _told(self, chosen: Iterable[tuple[str, AddressHandler]]) -> list[api.MailingList]:
        """*blocking* With their members counted."""
        rules, held = self._rules(), Counter(one.list for one in self._store.held())
        made = []
        for address, handler in chosen:
            settings, known = handler.options.list or PLAIN, members_of(rules, self._store, address).values()
            count = sum(one.member.state is MemberState.SUBSCRIBED for one in known)
            one = api.MailingList(address=address, name=settings.name, member_count=count, held_count=held[address])
            one.self_subscribe = settings.self_subscribe
            made.append(one)
        return made

    async def ListMembers(self, request: api.ListMembersRequest, context: object) -> api.ListMembersResponse:
        """See the proto."""
        rules = self._rules()
        known = await _asked(members_of, rules, self._store, request.list)
        targets = _targets(rules, request.list)
        chosen, token = page(known.items(), lambda one: one[0], request.page_size, request.page_token)
        return api.ListMembersResponse(members=[_proto(one, key in targets) for key, one in chosen], next_page_token=token)

    async def SetMember(self, request: api.SetMemberRequest, context: object) -> api.SetMemberResponse:
        """See the proto."""
        address = _address(request.address, "address")
        known = (await _asked(members_of, self._rules(), self._store, request.list)).get(address_key(address))
        member = known.member if known is not None else Member(address)
        state = _STATE_BACK.get(request.state, member.state)
        digest = request.digest if request.HasField("digest") else member.digest
        await asyncio.to_thread(self._store.put_member, request.list, replace(member, state=state, digest=digest))
        await self._changed()
        return api.SetMemberResponse(member=await self._member(request.list, address))

    async def ForgetMember(self, request: api.ForgetMemberRequest, context: object) -> api.ForgetMemberResponse:
        """See the proto."""
        await _asked(list_of, self._rules(), request.list)
        if not await asyncio.to_thread(self._store.forget_member, request.list, request.address):
            raise not_found("wishes of", request.address)
        await self._changed()
        return api.ForgetMemberResponse()

    async def _member(self, address: str, member: str) -> api.Member:
        rules = self._rules()
        known = (await _asked(members_of, rules, self._store, address)).get(address_key(member))
        named = address_key(member) in _targets(rules, address)
        return _proto(known, named) if known is not None else api.Member(address=member, state=api.MEMBER_STATE_UNSUBSCRIBED)

    # ---- posts that wait ---------------------------------------------------------------------------------------------

    async def ListHeldPosts(self, request: api.ListHeldPostsRequest, context: object) -> api.ListHeldPostsResponse:
        """See the proto."""
        if request.list:
            await _asked(list_of, self._rules(), request.list)
        posts = await asyncio.to_thread(self._store.held, request.list, MAX_HELD)
        return api.ListHeldPostsResponse(posts=[_post(one) for one in posts if await self._still_waits(one, context)])

    async def ApprovePost(self, request: api.ApprovePostRequest, context: object) -> api.ApprovePostResponse:
        """See the proto."""
        post = await self._found(request.list, request.message_id)
        await self._release(post, context)
        return api.ApprovePostResponse(post=_post(post))

    async def RejectPost(self, request: api.RejectPostRequest, context: object) -> api.RejectPostResponse:
        """See the proto."""
        post = await self._found(request.list, request.message_id)
        await self._remove(post, context, send_dsn=request.send_dsn)
        return api.RejectPostResponse(post=_post(post))

    async def _found(self, address: str, text: str) -> HeldPost:
        """By an id or its beginning. Raises ControlError."""
        await _asked(list_of, self._rules(), address)
        if len(text) < MIN_PREFIX:
            raise invalid("message_id", f"must have at least {MIN_PREFIX} characters")
        held = await asyncio.to_thread(self._store.held, address, MAX_HELD)
        fits = [one for one in held if format_message_id(one.message_id).startswith(text.lower())]
        if len(fits) != 1:
            raise not_found("post that waits", text) if not fits else invalid("message_id", f"{len(fits)} posts begin so")
        return fits[0]

    async def _release(self, post: HeldPost, context: object) -> None:
        await self._only_ours(post, context)
        selection = queue_api.MessageSelection(message_ids=[format_message_id(post.message_id)])
        await self._queue.ReleaseMessages(queue_api.ReleaseMessagesRequest(selection=selection), context)
        await asyncio.to_thread(self._store.settle, post.list, post.message_id)

    async def _remove(self, post: HeldPost, context: object, *, send_dsn: bool) -> None:
        await self._only_ours(post, context)
        selection = queue_api.MessageSelection(message_ids=[format_message_id(post.message_id)])
        await self._queue.RemoveMessages(queue_api.RemoveMessagesRequest(selection=selection, send_dsn=send_dsn), context)
        await asyncio.to_thread(self._store.settle, post.list, post.message_id)

    async def _only_ours(self, post: HeldPost, context: object) -> None:
        """Raises ControlError when the message is gone, or somebody waits for it who is no member of the list."""
        waiting = await self._waiting(post, context)
        if not waiting:
            await asyncio.to_thread(self._store.settle, post.list, post.message_id)
            raise not_found("post that waits", format_message_id(post.message_id))
        own = {f"list {post.list}", f"digest {post.list}"}
        others = [one.address for one in waiting if not own.intersection(one.route.edits)]
        if others:
            command = f"gatepost queue release {format_message_id(post.message_id)}"
            words = f"{others[0]} waits for the same message; {command} releases it for all"
            raise precondition(common.ERROR_REASON_REFUSED, words)

    async def _waiting(self, post: HeldPost, context: object) -> list[queue_api.QueueRecipient]:
        wanted = queue_api.GetMessageRequest(message_id=format_message_id(post.message_id))
        try:
            found = (await self._queue.GetMessage(wanted, context)).message
        except ControlError as error:
            if error.status is not Status.NOT_FOUND:
                raise
            return []
        return [one for one in found.recipients if one.held and one.state == queue_api.RECIPIENT_STATE_PENDING]

    async def _still_waits(self, post: HeldPost, context: object) -> bool:
        """A post that was released or removed in the queue is forgotten here."""
        if await self._waiting(post, context):
            return True
        await asyncio.to_thread(self._store.settle, post.list, post.message_id)
        return False

    # ---- links -------------------------------------------------------------------------------------------------------

    async def MakeMemberLink(self, request: api.MakeMemberLinkRequest, context: object) -> api.MakeMemberLinkResponse:
        """See the proto."""
        await _asked(list_of, self._rules(), request.list)
        action = _ACTION_BACK.get(request.action)
        if action is None or action not in (*MEMBER_ACTIONS, ListAction.OPTIONS):
            raise invalid("action", f"must be one of {', '.join((*MEMBER_ACTIONS, ListAction.OPTIONS))}")
        token = ListLink(action, address_key(request.list), _address(request.address, "address")).sign(self._rules().srs_key)
        base = self._settings().lists.link_base
        return api.MakeMemberLinkResponse(link_token=token, url=f"{base}{token}" if base else "")

    async def ResolveListLink(self, request: api.ResolveListLinkRequest, context: object) -> api.ResolveListLinkResponse:
        """See the proto."""
        try:
            link = read_list_link(request.link_token, self._rules().srs_key, time.time())
        except ListLinkError as error:
            raise precondition(common.ERROR_REASON_REFUSED, str(error)) if error.expired else invalid("link_token", str(error)) from error
        made = api.ResolveListLinkResponse(action=_ACTION[link.action], list=link.list, done=not request.dry_run)
        if link.action in (ListAction.APPROVE, ListAction.REJECT):
            made.post.CopyFrom(_post(await self._judge(link, context, dry_run=request.dry_run)))
            made.text = "" if request.dry_run else f"the post is {link.action}{'d' if link.action is ListAction.APPROVE else 'ed'}"
            return made
        if not request.dry_run:
            chosen = _ACTION_BACK.get(request.choice) if link.action is ListAction.OPTIONS else link.action
            if chosen not in MEMBER_ACTIONS:
                raise invalid("choice", f"must be one of {', '.join(MEMBER_ACTIONS)}")
            made.text = await self._carry_out(replace(link, action=chosen))
        made.member.CopyFrom(await self._member(link.list, link.subject))
        return made

    async def _judge(self, link: ListLink, context: object, *, dry_run: bool) -> HeldPost:
        try:
            post = await self._found(link.list, link.subject)
            if not dry_run and link.action is ListAction.APPROVE:
                await self._release(post, context)
            elif not dry_run:
                await self._remove(post, context, send_dsn=False)
        except ControlError as error:
            if error.status is not Status.NOT_FOUND:
                raise
            raise precondition(common.ERROR_REASON_REFUSED, "the post waits no longer: it was approved or rejected") from error
        return post

    async def _carry_out(self, link: ListLink) -> str:
        try:
            text = await asyncio.to_thread(carry_out, self._rules(), self._store, link)
        except ListRefused as error:
            raise precondition(common.ERROR_REASON_REFUSED, str(error)) from error
        await self._changed()
        return text


async def _asked(ask: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """In a thread; a list that is not there is NOT_FOUND."""
    try:
        return await asyncio.to_thread(ask, *args, **kwargs)
    except ListRefused as error:
        raise not_found("mailing list", str(error).partition(" ")[0]) from error


def _targets(rules: RuleSet, address: str) -> frozenset[str]:
    handler = rules.list_handler(address)
    return frozenset(address_key(one) for one in handler.targets) if handler is not None else frozenset()


def _address(text: str, field: str) -> str:
    try:
        return str(parse_address(text.strip()))
    except AddressError as error:
        raise invalid(field, f"{error} (got {text!r})") from None


def _proto(one: MemberRecord, named: bool) -> api.Member:
    made = api.Member(
        address=one.member.address,
        state=_STATE[one.member.state],
        digest=one.member.digest,
        in_handler=named,
        bounce_count=one.bounces,
    )
    if one.bounced_at:
        made.bounce_time.CopyFrom(timestamp(one.bounced_at * 1_000_000))
    if one.changed_at:
        made.change_time.CopyFrom(timestamp(one.changed_at * 1_000_000))
    return made


def _post(one: HeldPost) -> api.HeldPost:
    return api.HeldPost(
        list=one.list,
        message_id=format_message_id(one.message_id),
        sender=one.sender,
        author=one.author,
        subject=one.subject,
        receive_time=timestamp(one.at * 1_000_000),
    )
