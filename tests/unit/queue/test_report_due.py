"""Who is told of what (RFC 3461 4.1)."""

import pytest

from gatepost.message.envelope import Notify
from gatepost.queue.report import Action, is_due


@pytest.mark.parametrize("action", list(Action))
def test_nothing_is_ever_sent_to_the_null_reverse_path(action: Action) -> None:
    assert not is_due(Notify.SUCCESS | Notify.FAILURE | Notify.DELAY, action, "")


@pytest.mark.parametrize(
    ("notify", "due"),
    [
        (Notify.UNSET, {Action.FAILED, Action.DELAYED}),
        (Notify.NEVER, set()),
        (Notify.SUCCESS, {Action.DELIVERED, Action.RELAYED}),
        (Notify.FAILURE, {Action.FAILED}),
        (Notify.DELAY, {Action.DELAYED}),
        (Notify.SUCCESS | Notify.FAILURE, {Action.DELIVERED, Action.RELAYED, Action.FAILED}),
    ],
)
def test_notify_decides(notify: Notify, due: set[Action]) -> None:
    assert {action for action in Action if is_due(notify, action, "a@x.test")} == due
