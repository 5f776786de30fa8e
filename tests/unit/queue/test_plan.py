"""From recipients to what is committed."""

from gatepost.message.envelope import Notify, Recipient
from gatepost.queue.plan import Planner, Refused, merge_planned
from gatepost.routing.model import AddressHandler, DomainRule, HandlerKind, Mailbox, Route, RuleKind, RuleSet

RULES = RuleSet(
    1,
    {
        "here.test": DomainRule(
            "here.test",
            RuleKind.HOSTED,
            handlers=(
                AddressHandler("team", HandlerKind.FORWARD, ("alice@here.test", "bob@here.test")),
                AddressHandler("out", HandlerKind.FORWARD, ("far@away.test",)),
            ),
        ),
        "held.test": DomainRule("held.test", RuleKind.HOLD),
    },
    {name: Mailbox(name, bytes([number]) * 16, "main") for number, name in enumerate(("alice@here.test", "bob@here.test"))},
)


def plan(*recipients: Recipient, trusted: bool = True) -> list[object]:
    return list(Planner().plan_all(RULES, "s@x.test", recipients, trusted=trusted))


def test_each_recipient_has_its_own_answer_in_order() -> None:
    first, second = plan(Recipient("nobody@here.test"), Recipient("alice@here.test"))
    assert isinstance(first, Refused)
    assert first.reply.code == 550
    assert isinstance(second, tuple)
    assert second[0].destination == "local:main"


def test_two_ways_to_one_mailbox_are_one_delivery() -> None:
    plans = Planner().plan_all(
        RULES,
        "s@x.test",
        [Recipient("team@here.test", Notify.FAILURE), Recipient("alice+x@here.test", Notify.SUCCESS)],
        trusted=False,
    )
    merged = merge_planned(one for one in plans if not isinstance(one, Refused))
    assert len(merged) == 2
    assert merged[0].notify == Notify.FAILURE | Notify.SUCCESS


def test_notify_never_gives_way_and_the_default_means_failure_and_delay() -> None:
    for first, second, expected in (
        (Notify.NEVER, Notify.SUCCESS, Notify.SUCCESS),
        (Notify.NEVER, Notify.NEVER, Notify.NEVER),
        (Notify.UNSET, Notify.UNSET, Notify.UNSET),
        (Notify.UNSET, Notify.SUCCESS, Notify.SUCCESS | Notify.FAILURE | Notify.DELAY),
    ):
        plans = Planner().plan_all(RULES, "", [Recipient("bob@here.test", first), Recipient("BOB@here.test", second)], trusted=False)
        (merged,) = merge_planned(one for one in plans if not isinstance(one, Refused))
        assert merged.notify == expected


def test_a_forward_remembers_the_address_the_message_came_to() -> None:
    (planned,) = plan(Recipient("out@here.test"))
    assert isinstance(planned, tuple)
    assert planned[0].address == "far@away.test"
    assert planned[0].orcpt == "rfc822;out@here.test"
    assert Route.decode(planned[0].route).address == "far@away.test"
    (planned,) = plan(Recipient("out@here.test", orcpt="rfc822;first@x.test"))
    assert isinstance(planned, tuple)
    assert planned[0].orcpt == "rfc822;first@x.test"


def test_a_hold_rule_enters_the_queue_held() -> None:
    (planned,) = plan(Recipient("x@held.test"))
    assert isinstance(planned, tuple)
    assert planned[0].held
