"""PoliciesService over the directory, and the dry run of a policy on a queued message. Served by the supervisor.

A text is checked by the very code that live mail uses before it is stored; then, as with rules, `changed` is awaited, so that the caller's
answer means that workers use it. A dry run fetches the message from its worker and inspects it in a thread, TRIALS at once. Directory
calls run in threads. Errors: see control.errors.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import grpc.aio

from gatepost.api.policies.v1 import policies_pb2 as api
from gatepost.api.policies.v1 import policies_pb2_grpc
from gatepost.api.quarantine.v1 import quarantine_pb2
from gatepost.api.queue.v1 import queue_pb2
from gatepost.config import Settings
from gatepost.control.access import author
from gatepost.control.errors import ControlError, from_rpc, invalid, not_found
from gatepost.control.explain import is_trusted
from gatepost.control.merge import MergedQueueServicer
from gatepost.control.paging import page
from gatepost.control.quarantine_convert import withheld_addresses
from gatepost.control.quarantine_merge import BODY_SECONDS
from gatepost.control.server import Service
from gatepost.directory import Directory, StoredPolicy
from gatepost.directory.errors import NotFound
from gatepost.directory.validation import RESERVED_POLICIES
from gatepost.message.verdict import WITHHELD
from gatepost.queue.named import named_address
from gatepost.routing.model import RuleSet
from gatepost.routing.trust import Client
from gatepost.scan.explain import Key, reasons
from gatepost.scan.facts import MailFacts, direction_of
from gatepost.scan.files import PolicyError, limits_of, parse_policy, policies_of, unreadable_list
from gatepost.scan.header import header_of
from gatepost.scan.judge import Judgement, judge
from gatepost.scan.policies import SHIPPED
from gatepost.scan.policy import Policy, Seen
from gatepost.scan.report import Report, inspect

TRIALS = 2
"""Dry runs at once; each keeps a message in memory. Further ones wait."""


class PoliciesServicer(policies_pb2_grpc.PoliciesServiceServicer):
    """`rule_set` and `settings` give what is in force now; `changed` spreads a change; `queue` finds messages."""

    def __init__(
        self,
        directory: Directory,
        rule_set: Callable[[], RuleSet],
        settings: Callable[[], Settings],
        changed: Callable[[], Awaitable[None]],
        queue: MergedQueueServicer,
    ) -> None:
        self._directory = directory
        self._rule_set = rule_set
        self._settings = settings
        self._changed = changed
        self._queue = queue
        self._trials = asyncio.Semaphore(TRIALS)

    def service(self) -> Service:
        """For ControlServer."""
        return Service("gatepost.api.policies.v1.PoliciesService", self, policies_pb2_grpc.add_PoliciesServiceServicer_to_server)

    async def ListPolicies(self, request: api.ListPoliciesRequest, context: object) -> api.ListPoliciesResponse:
        """See the proto."""
        stored = await asyncio.to_thread(self._directory.list_policies)
        own = [StoredPolicy(name, "", "") for name in RESERVED_POLICIES]
        everything = sorted([*own, *stored], key=lambda one: one.name)
        chosen, token = page(everything, lambda one: one.name, request.page_size, request.page_token)
        made = [_proto(one) for one in chosen]
        for one in made:
            one.ClearField("text")
        return api.ListPoliciesResponse(policies=made, next_page_token=token)

    async def GetPolicy(self, request: api.GetPolicyRequest, context: object) -> api.GetPolicyResponse:
        """See the proto."""
        if request.name in RESERVED_POLICIES:
            return api.GetPolicyResponse(policy=_proto(StoredPolicy(request.name, "", "")))
        try:
            return api.GetPolicyResponse(policy=_proto(await asyncio.to_thread(self._directory.get_policy, request.name)))
        except NotFound as fault:
            raise _unknown(request.name, [*RESERVED_POLICIES, *self._rule_set().policies]) from fault

    async def CheckPolicy(self, request: api.CheckPolicyRequest, context: object) -> api.CheckPolicyResponse:
        """See the proto."""
        try:
            policy = await asyncio.to_thread(_parsed, request.text)
        except PolicyError as fault:
            return api.CheckPolicyResponse(fault=str(fault))
        return api.CheckPolicyResponse(rule_count=len(policy.rules))

    async def ApplyPolicy(self, request: api.ApplyPolicyRequest, context: object) -> api.ApplyPolicyResponse:
        """See the proto."""
        await self._checked(request.text)
        stored = await asyncio.to_thread(self._directory.put_policy, request.name, request.text, etag=request.etag or None, author=author())
        await self._changed()
        return api.ApplyPolicyResponse(policy=_proto(stored))

    async def DeletePolicy(self, request: api.DeletePolicyRequest, context: object) -> api.DeletePolicyResponse:
        """See the proto."""
        await asyncio.to_thread(self._directory.delete_policy, request.name, etag=request.etag or None, author=author())
        await self._changed()
        return api.DeletePolicyResponse()

    async def TryPolicy(self, request: api.TryPolicyRequest, context: object) -> api.TryPolicyResponse:
        """See the proto."""
        rule_set, settings = self._rule_set(), self._settings()
        if request.policy and request.policy not in (*RESERVED_POLICIES, *rule_set.policies):
            raise _unknown(request.policy, [*RESERVED_POLICIES, *rule_set.policies])
        unstored = await self._checked(request.text) if request.text else None
        found = await self._queue.GetMessage(queue_pb2.GetMessageRequest(message_id=request.message_id), context)
        async with self._trials:
            data = await self._octets(found.message, context)
            return await asyncio.to_thread(_trial, rule_set, settings, found.message, data, request.policy, unstored)

    async def _octets(self, message: queue_pb2.QueueMessage, context: object) -> bytes:
        """Of any message of the queue. What is in quarantine goes to nobody: a trial tells no more of it than its verdict does."""
        if not withheld_addresses(message, [*WITHHELD]):
            wanted = queue_pb2.DownloadMessageRequest(message_id=message.message_id)
            return b"".join([part.chunk async for part in self._queue.DownloadMessage(wanted, context)])
        found = await self._queue.find(message.message_id)
        kept = quarantine_pb2.ReadContentRequest(message_id=found.message_id)
        try:
            return b"".join([part.chunk async for part in found.link.quarantine.ReadContent(kept, timeout=BODY_SECONDS)])
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error) from error

    async def _checked(self, text: str) -> Policy:
        """Raises ControlError."""
        try:
            return await asyncio.to_thread(_parsed, text)
        except PolicyError as fault:
            raise invalid("text", str(fault)) from fault


def _parsed(text: str) -> Policy:
    """*blocking* A policy that can be carried out as it stands. Raises PolicyError."""
    policy = parse_policy(text)
    if fault := unreadable_list(policy):
        raise PolicyError(fault)
    return policy


def _unknown(name: str, known: Sequence[str]) -> ControlError:
    close = get_close_matches(name, known, 1)
    return not_found("policy", f"{name!r}; did you mean {close[0]!r}?" if close else f"{name!r}; there are {', '.join(sorted(known)[:20])}")


def _proto(stored: StoredPolicy) -> api.Policy:
    """With what the text says of itself; a stored text that is not understood any more has no rules."""
    made = api.Policy(name=stored.name, text=stored.text, used_by=stored.used_by, etag=stored.etag)
    policy = SHIPPED.get(stored.name)
    if policy is None:
        try:
            policy = parse_policy(stored.text)
        except PolicyError as fault:
            policy = Policy(description=f"not understood: {fault}"[:400])
    made.description, made.rule_count = policy.description, len(policy.rules)
    return made


def _trial(rule_set: RuleSet, settings: Settings, message: Any, data: bytes, policy: str, unstored: Policy | None) -> api.TryPolicyResponse:
    """*blocking* Facts as reception had them, then inspection and judgement."""
    policies = policies_of(rule_set, settings)
    if policy or unstored is not None:
        policies = policies.only("file" if unstored is not None else policy, unstored)
    delimiter = settings.smtp.recipient_delimiter
    recipients = tuple(dict.fromkeys(named_address(rule_set, one.address, one.original_recipient, delimiter) for one in message.recipients))
    client, user = message.origin.client_address, message.origin.user
    trusted = is_trusted(settings, rule_set, Client(client, user)).trusted
    mail = MailFacts(
        message.sender,
        recipients,
        direction_of(rule_set, recipients, trusted=trusted),
        trusted,
        client,
        message.origin.helo,
        user,
        message.size,
        header=header_of(data),
    )
    report = inspect(data, "", "message/rfc822", limits_of(settings.scan))
    found = judge(policies, mail, report, (), time.time())
    told = reasons([policies.get(name) for name in dict.fromkeys(policies.of(mail))], Seen(report, mail))
    return _answer(mail, policies.of(mail), report, found, told)


def _answer(mail: MailFacts, names: tuple[str, ...], report: Report, found: Judgement, told: Mapping[Key, str]) -> api.TryPolicyResponse:
    verdict = found.verdict
    fates = zip(mail.recipients, names, found.fates, strict=True)
    return api.TryPolicyResponse(
        action=verdict.action,
        policy=verdict.policy,
        rule=verdict.rule,
        reason=verdict.reason,
        findings=[
            api.PolicyFinding(path=one.path, rule=one.what, action=one.action, why=told.get((one.path, one.what, one.action), ""))
            for one in verdict.findings
        ],
        omitted=verdict.omitted,
        recipients=[api.RecipientFate(address=address, policy=name, fate=fate) for address, name, fate in fates],
        stripped=[one.removed.path for one in found.strip],
        subject=found.subject,
        copies=found.copies,
        inspection=report.verdict,
        entry_count=len(report.entries),
    )
