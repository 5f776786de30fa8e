"""Queued mail decided anew: who would go another way now. Called by RulesetsService.PreviewReplan; changes nothing.

Each pending recipient is decided as a reroute by rules decides it (queue.anew), so that what is shown is what
QueueService.RerouteMessages would do. Pages of the merged queue are read one by one, so that nothing else waits. Mail in quarantine or
waiting for a scanner is left out.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from gatepost.api.queue.v1 import queue_pb2
from gatepost.api.rulesets.v1 import rulesets_pb2 as api
from gatepost.control.merge import MergedQueueServicer
from gatepost.message.verdict import WITHHELD
from gatepost.queue.anew import Anew

MAX_EXAMINED = 200_000
MAX_GROUPS = 200
MAX_IDS = 10_000
PAGE = 500


@dataclass(slots=True)
class _Group:
    recipients: int = 0
    messages: int = 0
    ids: list[str] = field(default_factory=list)


Key = tuple[str, str, str]


async def replan(queue: MergedQueueServicer, anew: Anew, context: Any) -> api.PreviewReplanResponse:
    """See the proto."""
    groups: dict[Key, _Group] = {}
    answer, token = api.PreviewReplanResponse(), ""
    while True:
        page = await queue.ListMessages(queue_pb2.ListMessagesRequest(page_size=PAGE, page_token=token), context)
        changed = await asyncio.to_thread(_of_page, page.messages, anew, groups)
        answer.examined += len(page.messages)
        answer.messages += changed
        token = page.next_page_token
        if not token or answer.examined >= MAX_EXAMINED:
            break
    answer.more = bool(token)
    answer.recipients = sum(one.recipients for one in groups.values())
    for (before, after, hindrance), one in sorted(groups.items(), key=lambda item: -item[1].recipients)[:MAX_GROUPS]:
        answer.groups.add(
            before=before, after=after, hindrance=hindrance, recipients=one.recipients, messages=one.messages, message_ids=one.ids
        )
    return answer


def _of_page(messages: Any, anew: Anew, groups: dict[Key, _Group]) -> int:
    """Sort the recipients of these messages that would go another way into groups; how many messages have one."""
    changed = 0
    for message in messages:
        touched: set[Key] = set()
        for one in message.recipients:
            if one.state != queue_pb2.RECIPIENT_STATE_PENDING or one.destination in WITHHELD:
                continue
            key = _other_way(one, message, anew)
            if key is None:
                continue
            group = groups.setdefault(key, _Group())
            group.recipients += 1
            if key not in touched:
                touched.add(key)
                group.messages += 1
                if len(group.ids) < MAX_IDS:
                    group.ids.append(message.message_id)
        changed += bool(touched)
    return changed


def _other_way(one: Any, message: Any, anew: Anew) -> Key | None:
    """(destination now, destination by the rules, why it cannot be given that), or None when they are the same."""
    decision = anew.decide(message.origin, message.sender, one.address, message.size, one.original_recipient)
    if decision.reply is not None:
        reply = decision.reply
        return one.destination, "", f"would be refused: {reply.code} {reply.enhanced} {reply.text}"
    if len(decision.routes) != 1:
        return one.destination, "", f"would go to {len(decision.routes)} recipients"
    route = decision.routes[0]
    if route.destination == one.destination and route.address.lower() == one.address.lower():
        return None
    return one.destination, route.destination or "discarded", ""
