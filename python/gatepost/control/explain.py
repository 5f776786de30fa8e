"""What live mail would meet, asked without sending any: the checks of the SMTP server's policy, then routing.decide. Pure.

Called by RulesService.Explain. Uses the very functions the servers use; only their order is repeated here.
"""

import ipaddress

from gatepost.api.rules.v1 import rules_pb2 as api
from gatepost.config import Settings
from gatepost.control.convert import address_from_text, reply_proto, route_proto, trace_proto
from gatepost.control.errors import invalid
from gatepost.message.address import Address
from gatepost.message.reply import Reply
from gatepost.policy.checks import TOO_BIG, check_own_address, postmaster_domain
from gatepost.policy.trust import TrustedNetworks
from gatepost.routing.decide import decide
from gatepost.routing.model import Question, RuleSet, TraceStep


def explain(settings: Settings, rules: RuleSet, request: api.ExplainRequest) -> api.ExplainResponse:
    """The answer. Raises ControlError for what is no address."""
    sender = address_from_text("sender", request.sender) if request.sender not in ("", "<>") else None
    recipient = _recipient(settings, rules, request.recipient)
    if request.HasField("assume_trusted"):
        trusted, why = request.assume_trusted, "as the question says"
    else:
        trusted, why = is_trusted(settings, rules, request.client_address, request.user)
    answer = api.ExplainResponse(trusted=trusted, rule_version=rules.version)
    steps = [TraceStep("sender", why)]
    reply = _refused_before(settings, rules, sender, request, steps)
    if reply is None:
        question = Question(str(sender or ""), recipient, trusted, request.size)
        decision = decide(rules, question, delimiter=settings.smtp.recipient_delimiter)
        steps += decision.trace
        answer.routes.extend(map(route_proto, decision.routes))
        reply = decision.reply
    if reply is not None:
        answer.reply.CopyFrom(reply_proto(reply))
    answer.trace.extend(trace_proto(tuple(steps)))
    return answer


def _refused_before(
    settings: Settings, rules: RuleSet, sender: Address | None, request: api.ExplainRequest, steps: list[TraceStep]
) -> Reply | None:
    """What MAIL would be refused for (RFC 1870 6.1, RFC 6409 6.1), noted in `steps`."""
    if request.size > settings.smtp.max_message_bytes:
        steps.append(TraceStep("size", f"more than smtp.max_message_bytes, {settings.smtp.max_message_bytes}"))
        return TOO_BIG
    reply = check_own_address(rules, sender, request.user, settings.smtp.recipient_delimiter) if request.user else None
    if reply is not None:
        steps.append(TraceStep("sender", f"{sender} belongs to another user than {request.user}"))
    return reply


def is_trusted(settings: Settings, rules: RuleSet, client_address: str, user: str) -> tuple[bool, str]:
    """May the sender relay? (answer, why in words). Raises ControlError for something that is no IP address."""
    if user:
        mailbox = rules.mailboxes.get(user.lower())
        if mailbox is None or not mailbox.enabled:
            return False, f"user {user} cannot log in: {'disabled' if mailbox else 'no such user'}"
        return True, f"logged in as {user}"
    if not client_address:
        return False, "no user and no client address: a stranger"
    try:
        ipaddress.ip_address(client_address)
    except ValueError:
        raise invalid("client_address", "is not an IP address") from None
    if client_address in TrustedNetworks(settings.trust.networks):
        return True, f"{client_address} is in a trusted network (trust.networks)"
    return False, f"{client_address} is in no trusted network (trust.networks)"


def _recipient(settings: Settings, rules: RuleSet, text: str) -> str:
    if text.lower() == "postmaster":  # RFC 5321 4.1.1.3
        return f"{text}@{postmaster_domain(rules, settings.hostname)}"
    return str(address_from_text("recipient", text))
