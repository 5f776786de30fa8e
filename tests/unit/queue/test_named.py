"""What RCPT named for a recipient of the queue: believed only where the rules lead from it to the recipient."""

from dataclasses import replace

import pytest

from gatepost.queue.named import named_address
from gatepost.routing.model import AddressHandler, DomainRule, HandlerKind, RuleKind
from support.queue_lab import RULES

SALES = AddressHandler("sales", HandlerKind.FORWARD, ("alice@here.test",))
WITH_SALES = replace(RULES, rules={**RULES.rules, "here.test": DomainRule("here.test", RuleKind.HOSTED, handlers=(SALES,))})


@pytest.mark.parametrize(
    ("orcpt", "named"),
    [
        ("rfc822;sales@here.test", "sales@here.test"),
        ("UTF-8;Sales@HERE.test", "Sales@here.test"),
        ("rfc822;bob@here.test", "alice@here.test"),
        ("rfc822;alice@elsewhere.test", "alice@here.test"),
        ("x400;sales@here.test", "alice@here.test"),
        ("rfc822;no address", "alice@here.test"),
        ("sales@here.test", "alice@here.test"),
        ("", "alice@here.test"),
    ],
)
def test_the_original_recipient_counts_only_if_mail_to_it_is_led_here(orcpt: str, named: str) -> None:
    assert named_address(WITH_SALES, "alice@here.test", orcpt, "+") == named
