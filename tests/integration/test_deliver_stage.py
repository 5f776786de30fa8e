"""Policies at stage deliver over the real spool and scheduler: each action, and nothing for mail that none concerns."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gatepost.control.explain import Asked, answer
from gatepost.directory import part_checks
from gatepost.events.bus import FAULT, NOTICE
from gatepost.message.verdict import QUARANTINE
from gatepost.native import K_DEFERRED, K_NOTE, NotFoundError
from gatepost.queue.actions import Order
from gatepost.queue.attempt import decode_detail
from gatepost.queue.transport import Deferred, Delivered
from gatepost.queue.views import QueuedMessage, decode_summary
from gatepost.routing.model import Route, RouteKind
from gatepost.routing.route import DELIVER_EDIT, STAGE_EDIT
from gatepost.routing.stages import Stage, StageAction, StagePolicy
from support.queue_lab import RULES, QueueLab, ScriptedTransport

BUSY = Deferred("mailbox busy", "4.2.0")


def rules(*policies: tuple[str, str, dict[str, Any]]) -> Any:
    """(condition, action, more) each, named p0, p1 …"""
    made = [
        StagePolicy(name=f"p{n}", stage=Stage.DELIVER, when=when, action=StageAction(action), **more)
        for n, (when, action, more) in enumerate(policies)
    ]
    return replace(RULES, stage_policies=tuple(part_checks.entry("stage_policies", one) for one in made))


def remote(lab: QueueLab) -> ScriptedTransport:
    assert isinstance(lab.remote, ScriptedTransport)
    return lab.remote


def local(lab: QueueLab) -> ScriptedTransport:
    assert isinstance(lab.local, ScriptedTransport)
    return lab.local


def message(lab: QueueLab, message_id: bytes) -> QueuedMessage:
    return decode_summary(lab.spool.get(message_id))


def details(history: Sequence[tuple[int, int, int, bytes]], kind: int) -> list[dict[str, object]]:
    return [decode_detail(detail) for _, one, _, detail in history if one == kind]


async def test_what_is_refused_is_returned_and_the_other_recipients_go(tmp_path: Path) -> None:
    policies = rules(("recipient.local == 'bad' && attempt.number == 1", "reject", {"text": "not to him"}))
    async with QueueLab(tmp_path, rules=policies) as lab:
        await lab.submit("bad@away.test", "good@away.test")
        await lab.empty()
        assert remote(lab).addresses() == ["good@away.test"]
        (report,) = lab.reports()
        assert report.recipients[0].address == "alice@here.test"


async def test_what_is_put_off_is_tried_again_and_is_no_fault_of_the_destination(tmp_path: Path) -> None:
    async with QueueLab(tmp_path, rules=rules(("attempt.number < 3", "defer", {"text": "later"}))) as lab:
        await lab.submit("far@away.test")
        await lab.until(lambda: remote(lab).jobs)
        assert [job.recipients[0].attempts for job in remote(lab).jobs] == [2]
        state = lab.scheduler.state("smtp:away.test:opportunistic")
        assert state is not None
        assert not state.failures


async def test_what_is_put_off_for_ever_expires(tmp_path: Path) -> None:
    async with QueueLab(tmp_path, rules=rules(("recipient.domain == 'away.test'", "defer", {})), expire_seconds=1) as lab:
        await lab.submit("far@away.test")
        await lab.empty()
        assert not remote(lab).jobs
        assert len(lab.reports()) == 1


async def test_a_limit_lets_so_many_go_and_says_when_the_next_may(tmp_path: Path) -> None:
    limit = {"most": 2, "seconds": 600, "by": "recipient-domain"}
    async with QueueLab(tmp_path, rules=rules(("route.kind == 'smtp'", "limit", limit))) as lab:
        ids = [await lab.submit("far@away.test") for _ in range(3)]
        other = await lab.submit("far@other.test")
        await lab.until(lambda: len(remote(lab).jobs) == 3 and lab.spool.stats()["in_flight"] == 0)
        (left,) = lab.spool.list_ids(None, 10)
        assert left in ids and left != other
        (deferred,) = details(await lab.spool.history(left), K_DEFERRED)
        assert "limit of policy p0: 2 in 600 seconds" in str(deferred["reason"])
        wait = message(lab, left).recipients[0].next_attempt - lab.scheduler.now()
        assert 500 < wait / 1_000_000 <= 600


@pytest.mark.parametrize(("action", "destination"), [("hold", "smtp:away.test:opportunistic"), ("quarantine", QUARANTINE)])
async def test_what_is_held_waits_with_the_reason_and_goes_once_it_is_released(tmp_path: Path, action: str, destination: str) -> None:
    async with QueueLab(tmp_path, rules=rules(("recipient.local == 'far'", action, {"text": "have a look"}))) as lab:
        message_id = await lab.submit("far@away.test", "near@away.test")
        await lab.until(lambda: remote(lab).jobs)
        await lab.until(lambda: lab.spool.stats()["held"] == 1)
        held = next(one for one in message(lab, message_id).recipients if one.address == "far@away.test")
        assert (held.destination, held.held) == (destination, True)
        verdicts = [one["verdict"] for one in details(await lab.spool.history(message_id), K_NOTE) if "verdict" in one]
        assert "have a look" in str(verdicts)
        if action == "hold":
            await lab.actions.release(message_id, Order("tester"))
            await lab.empty()
            assert remote(lab).addresses() == ["near@away.test", "far@away.test"]


async def test_two_policies_send_nothing_to_and_fro(tmp_path: Path) -> None:
    policies = rules(
        ("route.host == ''", "reroute", {"host": "a.test"}),
        ("route.host == 'a.test'", "reroute", {"host": "b.test"}),
        ("route.host == 'b.test'", "reroute", {"host": "a.test"}),
    )
    async with QueueLab(tmp_path, rules=policies) as lab:
        await lab.commit(Route(RouteKind.SMTP, "far@away.test", return_path="srs:here.test"))
        await lab.empty()
        (job,) = remote(lab).jobs
        route = job.recipients[0].route
        assert route.host == "a.test"
        assert route.return_path == "srs:here.test"
        assert {ref for kind, ref in route.edits if kind == DELIVER_EDIT} == {"p0", "p1", "p2"}


async def test_a_copy_is_made_once_and_is_not_copied(tmp_path: Path) -> None:
    first = ScriptedTransport()
    first.script = lambda job, _: Delivered() if job.recipients[0].attempts else BUSY
    async with QueueLab(tmp_path, remote=first, rules=rules(("true", "copy", {"address": "bob@here.test"}))) as lab:
        await lab.submit("far@away.test", "far@other.test", "alice@here.test")
        await lab.empty()
        assert sorted(local(lab).addresses()) == ["alice@here.test", "bob@here.test"]
        assert len(first.jobs) == 4


async def test_a_copy_is_made_once_over_a_restart(tmp_path: Path) -> None:
    policies = rules(("true", "copy", {"address": "bob@here.test"}))
    async with QueueLab(tmp_path, remote=ScriptedTransport(script=lambda *_: BUSY), rules=policies) as lab:
        await lab.submit("far@away.test")
        await lab.until(lambda: local(lab).jobs and len(remote(lab).jobs) > 1)
    async with QueueLab(tmp_path, rules=policies) as lab:
        await lab.empty()
        assert not local(lab).jobs


async def test_header_changes_are_of_the_attempt(tmp_path: Path) -> None:
    policies = rules(("attempt.number == 1", "tag", {"text": "[first]"}), ("true", "add-header", {"header": "X-Seen", "text": "1"}))
    first = ScriptedTransport(script=lambda job, _: Delivered() if job.recipients[0].attempts else BUSY)
    async with QueueLab(tmp_path, remote=first, rules=policies) as lab:
        await lab.submit("far@away.test")
        await lab.empty()
        edits = [[ref for kind, ref in job.recipients[0].route.edits if kind == STAGE_EDIT] for job in first.jobs]
        assert edits == [["p0", "p1"], ["p1"]]


async def test_notices_are_raised_and_accept_ends_the_stage(tmp_path: Path) -> None:
    policies = rules(
        ("message.header('subject').exists(s, s == 'test')", "notify", {"text": "a test"}),
        ("sender.address == 'alice@here.test' && attempt.age < 3600 && message.size > 10", "accept", {}),
        ("true", "reject", {}),
    )
    async with QueueLab(tmp_path, rules=policies) as lab:
        await lab.submit("far@away.test")
        await lab.empty()
        assert remote(lab).addresses() == ["far@away.test"]
        (event,) = lab.bus.newest(10, kind=NOTICE)
        assert (event.text, event.fields["policy"], event.fields["stage"]) == ("a test", "p0", "deliver")
        assert event.fields["message_id"]


async def test_a_condition_without_an_answer_puts_off_and_is_told(tmp_path: Path) -> None:
    async with QueueLab(tmp_path, rules=rules(("message.header('x-count')[0] == '1'", "notify", {}))) as lab:
        message_id = await lab.submit("far@away.test")
        await lab.until(lambda: lab.bus.newest(1, kind=FAULT))
        await lab.until(lambda: lab.spool.stats()["in_flight"] == 0)
        assert not remote(lab).jobs
        deferred = details(await lab.spool.history(message_id), K_DEFERRED)
        assert "policy p0 cannot be worked out" in str(deferred[0]["reason"])


async def test_policies_are_those_of_the_attempt_not_of_the_decision(tmp_path: Path) -> None:
    async with QueueLab(tmp_path, remote=ScriptedTransport(script=lambda *_: BUSY)) as lab:
        await lab.submit("far@away.test")
        await lab.until(lambda: remote(lab).jobs)
        lab.rules = rules(("true", "reject", {}))
        await lab.empty()
        assert len(lab.reports()) == 1


async def test_a_limit_holds_while_messages_wait_in_rows(tmp_path: Path) -> None:
    async with QueueLab(tmp_path, rules=rules(("true", "limit", {"most": 5, "seconds": 900, "by": "all"}))) as lab:
        await asyncio.gather(*(lab.submit("far@away.test") for _ in range(12)))
        await lab.until(lambda: len(remote(lab).jobs) == 5 and lab.spool.stats()["in_flight"] == 0)
        await asyncio.sleep(0.1)
        assert len(remote(lab).jobs) == 5


def _concerned(lab: QueueLab, *names: str) -> list[bool]:
    return [lab.stage.concerns(name) for name in names]


async def test_destinations_that_no_policy_can_hold_for_are_let_alone(tmp_path: Path) -> None:
    names = (
        "local:main",
        "smtp:away.test:opportunistic",
        "smtp:other.test:opportunistic",
        "smtp:[a.test]:25:none",
        "auto-reply:",
        QUARANTINE,
    )
    async with QueueLab(tmp_path, start=False) as lab:
        assert _concerned(lab, *names) == [False] * 6
        lab.rules = rules(("recipient.domain == 'away.test' && route.kind == 'smtp' && time.hour >= 0", "notify", {}))
        assert _concerned(lab, *names) == [False, True, False, True, False, False]
        lab.rules = rules(("route.host == 'a.test'", "notify", {}))
        assert _concerned(lab, *names) == [False, False, False, True, False, False]
        lab.rules = rules(("sender.domain == 'x.test'", "notify", {}))
        assert _concerned(lab, *names) == [True, True, True, True, False, False]
        lab.rules = replace(lab.rules, stage_policies=())
        assert _concerned(lab, *names) == [False] * 6


async def test_what_is_moved_is_told_of_and_counted_once_for_an_attempt(tmp_path: Path) -> None:
    policies = rules(
        ("true", "notify", {"text": "seen"}),
        ("true", "limit", {"most": 3, "seconds": 600, "by": "all"}),
        ("route.host == ''", "reroute", {"host": "a.test"}),
        ("route.host == 'a.test'", "reroute", {"host": "b.test"}),
    )
    first = ScriptedTransport(script=lambda job, _: Delivered() if job.recipients[0].attempts else BUSY)
    async with QueueLab(tmp_path, remote=first, rules=policies) as lab:
        await lab.submit("far@away.test")
        await lab.empty()
        assert [job.recipients[0].route.host for job in first.jobs] == ["b.test", "b.test"]
        assert len(lab.bus.newest(10, kind=NOTICE)) == 2  # an attempt each
        await lab.submit("far@away.test")
        await lab.until(lambda: len(first.jobs) == 3)  # the third is counted; its second attempt would be one too many
        await lab.until(lambda: lab.spool.stats()["in_flight"] == 0)
        assert lab.spool.stats()["messages"] == 1


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_policies_say_mail_comes_to_an_end_as_explain_tells(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    for n in range(4):
        chosen = [dice.choice(RANDOM) for _ in range(dice.choice((1, 2, 4, 8)))]
        put = rules(*chosen)
        async with QueueLab(tmp_path / str(n), rules=put) as lab:
            ids = {
                await lab.submit(to, sender="alice@here.test"): to
                for to in ("far@away.test", "near@away.test", "bob@here.test", "x@b.test")
            }
            await lab.until(lambda known=tuple(ids): all(_has_ended(lab, one) for one in known))
            for message_id, to in ids.items():
                words = " ".join(answer(lab.settings, put, Asked("alice@here.test", to, assume_trusted=True)).at_delivery[0])
                assert _fate(lab, put, message_id, to) in _expected(words), f"{to}: {words!r} by {chosen}"


RANDOM = (
    ("recipient.local == 'far'", "reject", {}),
    ("recipient.domain == 'b.test'", "defer", {}),
    ("recipient.local == 'near' && attempt.number == 1", "hold", {}),
    ("route.kind == 'local'", "quarantine", {}),
    ("true", "tag", {"text": "[x]"}),
    ("recipient.domain == 'away.test'", "accept", {}),
    ("true", "reroute", {"host": "a.test"}),
    ("route.host == 'a.test'", "reroute", {"host": "b.test"}),
    ("route.host == 'b.test'", "reroute", {"host": "a.test"}),
    ("sender.local == 'alice'", "notify", {}),
    ("attempt.number == 1", "limit", {"most": 100, "seconds": 60}),
    ("message.size > 100000", "reject", {}),
)


def _has_ended(lab: QueueLab, message_id: bytes) -> bool:
    """Gone, held, or put off."""
    try:
        (one,) = message(lab, message_id).recipients
    except NotFoundError:
        return True
    return one.held or one.attempts > 0


def _fate(lab: QueueLab, put: Any, message_id: bytes, to: str) -> str:
    """What came of it, in the words of explain."""
    try:
        (one,) = message(lab, message_id).recipients
    except NotFoundError:
        tried = [job for job in (*remote(lab).jobs, *local(lab).jobs) if job.message_id == message_id]
        return f"delivered {tried[0].recipients[0].route.host}" if tried else "returned"
    return f"{'quarantine' if one.destination == QUARANTINE else 'held' if one.held else 'put off'} {one.route.host}"


def _expected(words: str) -> set[str]:
    """What may come of it; once it is rerouted other policies may hold, so all that can come of that."""
    hosts = ("a.test", "b.test")
    if "returned" in words:
        return {"returned"}
    if "put off" in words:
        return {"put off "}
    moved = hosts if "rerouted" in words else ("",)
    kind = "quarantine" if "quarantine" in words else "held" if "held" in words else "delivered"
    more = (
        {"returned", *(f"{other} {host}" for host in hosts for other in ("put off", "held", "quarantine"))}
        if "rerouted" in words
        else set()
    )
    return {f"{kind} {host}" for host in moved} | (more if kind == "delivered" else set())
