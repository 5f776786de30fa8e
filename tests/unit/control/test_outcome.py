"""The short way of a rehearsal to what becomes of a message, against the long one that explain takes: the same for any policies."""

import random
from dataclasses import replace
from pathlib import Path

import pytest

from gatepost.config import Settings, load_settings
from gatepost.control.explain import Asked, answer, before_recipient, outcome
from gatepost.routing.model import AddressHandler, DomainRule, HandlerKind, RuleKind, RuleSet
from gatepost.routing.senders import SenderRule
from gatepost.routing.stages import Stage, StageAction, StagePolicy
from gatepost.routing.trust import TrustAction, TrustEntry

CONDITIONS = (
    (Stage.CONNECT, "client.address == '192.0.2.1'"),
    (Stage.CONNECT, "client.trusted"),
    (Stage.HELO, "client.helo.startsWith('dsl-')"),
    (Stage.MAIL, "sender.domain == 's1.test' || client.listener == 'lmtp'"),
    (Stage.MAIL, "rate.client(60) > 3"),
    (Stage.RCPT, "recipient.local == 'a' && sender.address != ''"),
    (Stage.RCPT, "recipient.domain == 'gone.test'"),
    (Stage.ROUTE, "route.kind == 'smtp' && route.host == 'mx.test'"),
    (Stage.DATA, "message.recipients.exists(r, r.startsWith('b@'))"),
    (Stage.DATA, "message.size > 10 || sender.local == 'x'"),
    (Stage.DATA, "!client.trusted && sender.domain == 's2.test'"),
)
ACTIONS = (
    {"action": StageAction.REJECT, "text": "no"},
    {"action": StageAction.ACCEPT},
    {"action": StageAction.DEFER},
    {"action": StageAction.HOLD},
    {"action": StageAction.QUARANTINE},
    {"action": StageAction.COPY, "address": "copy@far.test"},
    {"action": StageAction.REROUTE, "host": "other.test"},
    {"action": StageAction.NOTIFY},
)
RULES = {
    "d.test": DomainRule("d.test", RuleKind.GATEWAY, "mx.test", handlers=(AddressHandler("f", HandlerKind.FORWARD, ("x@far.test",)),)),
    "gone.test": DomainRule("gone.test", RuleKind.REJECT, text="gone"),
    "drop.test": DomainRule("drop.test", RuleKind.DISCARD, policy="strict"),
}
TRUST = (TrustEntry(name="office", action=TrustAction.TRUST, networks=("192.0.2.0/30",)),)
SENDERS = (SenderRule(name="one", domains=("s1.test",), host="smart.test"),)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(data=tmp_path, overrides={}, environ={})


def _rule_set(drawn: random.Random, data_alone: bool) -> RuleSet:
    """Each with policies of its own; data_alone: none that looks at the recipients of the message."""
    known = [one for one in CONDITIONS if not (data_alone and "recipients" in one[1])]
    chosen = drawn.sample(known, drawn.randrange(1, 7))
    policies = tuple(StagePolicy(name=f"p{n}", stage=stage, when=when, **drawn.choice(ACTIONS)) for n, (stage, when) in enumerate(chosen))
    return RuleSet(1, RULES, {}, trust=TRUST if drawn.random() < 0.5 else (), sender_rules=SENDERS, stage_policies=policies)


def _asked(drawn: random.Random) -> Asked:
    return Asked(
        drawn.choice(["x@s1.test", "y@s2.test", "", "z@s3.test"]),
        "",
        drawn.choice(["192.0.2.1", "192.0.2.2", "198.51.100.4"]),
        assume_trusted=drawn.choice([None, True, False]),
        now=1,
        helo=drawn.choice(["", "dsl-1", "mx"]),
        listener=drawn.choice(["", "smtp", "lmtp"]),
    )


@pytest.mark.parametrize("data_alone", [True, False])
@pytest.mark.parametrize("seed", range(8))
def test_the_short_way_comes_to_what_explain_says(settings: Settings, seed: int, data_alone: bool) -> None:
    drawn = random.Random(seed)
    for _ in range(6):
        rules, asked = _rule_set(drawn, data_alone), _asked(drawn)
        before = before_recipient(settings, rules, asked)
        for recipient in ("a@d.test", "b@d.test", "f@d.test", "c@gone.test", "d@drop.test", "e@far.test", "A@D.test"):
            short = outcome(settings, rules, before, recipient)
            long = answer(settings, rules, replace(asked, recipient=recipient))
            assert (short.routes, short.reply, short.policy) == (long.routes, long.reply, long.policy), (
                rules.stage_policies,
                asked,
                recipient,
            )
