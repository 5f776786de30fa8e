"""What rules say of their mail in the queue: schedules, expiry, rate, concurrency, whom a report is for; answers and programs."""

import asyncio
import email
import email.policy
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from gatepost.delivery.answered import Answered
from gatepost.delivery.auto_reply import AutoReplyTransport
from gatepost.delivery.changes import RouteChanges
from gatepost.delivery.pipe import PipeTransport
from gatepost.message.reply import RemoteReply
from gatepost.queue.actions import Order
from gatepost.queue.attempt import decode_detail
from gatepost.queue.transport import Deferred, Delivered, Failed, Job, JobResult, Outcome, Transport
from gatepost.routing.model import DeliveryOptions, Program, Route, RouteKind
from gatepost.routing.settings import AutoReply
from support.queue_lab import QueueLab, ScriptedTransport
from support.rules import make_rules

BUSY = Deferred("mailbox busy", "4.2.0", RemoteReply(450, "4.2.0", "busy", "mx[192.0.2.1]:25", "RCPT"))
GONE = Failed("mx said: 550 5.1.1 no such user", "5.1.1", RemoteReply(550, "5.1.1", "no such user", "mx.far.test[192.0.2.1]:25", "RCPT"))


def far(address: str = "far@away.test", **more: object) -> Route:
    return Route(RouteKind.SMTP, address, host="192.0.2.1", **more)  # type: ignore[arg-type]


async def test_a_rule_with_a_list_of_waits_is_tried_again_by_it(tmp_path: Path) -> None:
    remote = ScriptedTransport()
    remote.script = lambda _job, _address: BUSY if len(remote.jobs) < 4 else Delivered()
    async with QueueLab(tmp_path, remote=remote, retry_initial_seconds=30, retry_max_seconds=60) as lab:
        await lab.commit(far(options=DeliveryOptions(retry_intervals=(1,), retry_initial=0)))
        await lab.empty(60)
    waits = [second - first for first, second in zip(remote.times, remote.times[1:], strict=False)]
    assert len(waits) == 3 and all(0.9 < wait < 25 for wait in waits)


async def test_a_rule_may_give_its_mail_up_sooner_than_others(tmp_path: Path) -> None:
    remote = ScriptedTransport(script=lambda _job, _address: BUSY)
    async with QueueLab(tmp_path, remote=remote, expire_seconds=1000) as lab:
        await lab.commit(far(options=DeliveryOptions(expire=1)))
        other = await lab.commit(far("other@away.test"))
        await lab.until(lambda: len(lab.reports()) == 1, 10)
        assert (await lab.service.get(other)).recipients[0].pending


async def test_no_more_messages_begin_in_a_minute_than_the_rule_lets(tmp_path: Path) -> None:
    async with QueueLab(tmp_path) as lab:
        options = DeliveryOptions(rate_per_minute=3)
        for number in range(5):
            await lab.commit(far(f"{number}@away.test", options=options))
        await lab.commit(far("free@away.test"))
        await lab.until(lambda: len(lab.remote.jobs) == 4)  # type: ignore[attr-defined]
        state = lab.scheduler.state(far(options=options).destination)
        assert state is not None and state.pacing is not None and not state.backing_off(lab.scheduler.now())
        state.sent.clear()  # a minute later
        state.pacing.cancel()
        lab.scheduler._go_on(state)
        await lab.empty()
        assert len(lab.remote.jobs) == 6  # type: ignore[attr-defined]


async def test_a_rule_has_a_concurrency_of_its_own(tmp_path: Path) -> None:
    remote = ScriptedTransport(seconds=0.1)
    async with QueueLab(tmp_path, remote=remote, destination_concurrency=20) as lab:
        for number in range(6):
            await lab.commit(far(f"{number}@away.test", options=DeliveryOptions(concurrency=2)))
        await lab.empty()
    assert remote.most == 2


class Gated(ScriptedTransport):
    """Carries nothing out before `gate` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()

    async def deliver(self, destination: str, jobs: Sequence[Job]) -> Sequence[JobResult]:
        await self.gate.wait()
        return await super().deliver(destination, jobs)


async def test_mail_of_a_higher_priority_goes_first_when_there_is_not_room_for_all(tmp_path: Path) -> None:
    remote = Gated()
    async with QueueLab(tmp_path, remote=remote, total_concurrency=1, destination_concurrency=1) as lab:
        urgent = Route(RouteKind.SMTP, "u@away.test", host="192.0.2.9", options=DeliveryOptions(priority=50))
        remote.gate.set()
        await lab.commit(urgent)
        await lab.empty()
        remote.gate.clear()
        others = [Route(RouteKind.SMTP, f"{number}@away.test", host=f"192.0.2.{number + 10}") for number in range(5)]
        for route in (*others, urgent):
            await lab.commit(route)
        await lab.until(lambda: (state := lab.scheduler.state(urgent.destination)) is not None and state.queued)
        remote.gate.set()
        await lab.empty()
    first, second = remote.addresses()[1:3]
    assert (first, second) == ("0@away.test", "u@away.test")


async def test_a_member_that_bounces_is_the_business_of_the_list_and_not_of_who_posted(tmp_path: Path) -> None:
    remote = ScriptedTransport(script=lambda _job, _address: GONE)
    async with QueueLab(tmp_path, remote=remote) as lab:
        await lab.commit(far(return_path="bob@here.test"), far("plain@away.test"), far("quiet@away.test", return_path="<>"))
        await lab.until(lambda: len(lab.reports()) == 2)
        assert {job.recipients[0].address for job in lab.reports()} == {"alice@here.test", "bob@here.test"}


async def test_a_member_removed_by_an_operator_is_told_to_the_list_as_well(tmp_path: Path) -> None:
    async with QueueLab(tmp_path) as lab:
        await lab.scheduler.pause(far().destination)
        message_id = await lab.commit(far(return_path="bob@here.test"), far("plain@away.test"))
        await lab.actions.remove(message_id, Order("me"), dsn=True)
        await lab.until(lambda: len(lab.reports()) == 2)
        assert {job.recipients[0].address for job in lab.reports()} == {"alice@here.test", "bob@here.test"}


# ---- automatic answers

RULES = make_rules(replies={"info": AutoReply("We are closed: Grüße\n", interval_days=1)})
INFO = Route(RouteKind.AUTO_REPLY, "info@here.test", edits=(("auto-reply", "info@here.test"),))
LETTER = b"From: alice@here.test\r\nTo: info@here.test\r\nSubject: hello\r\nMessage-ID: <1@x>\r\n\r\nhi\r\n"


def answering(lab: QueueLab) -> Mapping[str, Transport]:
    answered = Answered(lab.path / "answered.db")
    return {"auto-reply": AutoReplyTransport(lab.spool.open_message, lab.submitter, lambda: RULES, answered)}


async def test_a_sender_is_answered_once_restarts_included(tmp_path: Path) -> None:
    for _ in range(2):
        async with QueueLab(tmp_path, more=answering) as lab:
            await lab.scheduler.pause("local:main")
            before = lab.spool.stats()["messages"]
            await lab.commit(INFO, body=LETTER)
            await lab.until(lambda: not any(name == "auto-reply:" for name, *_ in lab.spool.native.destinations()))
            page = await lab.service.list()
            assert before <= len(page.messages) == 1
            octets = lab.service.open(page.messages[0].message_id).read(65536)
    answer = email.message_from_bytes(octets, policy=email.policy.default)
    assert page.messages[0].reverse_path == "" and page.messages[0].recipients[0].address == "alice@here.test"
    assert answer["Auto-Submitted"] == "auto-replied" and answer["In-Reply-To"] == "<1@x>"
    assert answer["From"] == "info@here.test" and answer["Subject"] == "Auto: hello"
    assert answer.get_content().strip() == "We are closed: Grüße"  # type: ignore[attr-defined]


@pytest.mark.parametrize("sender", ["", "list-bounces@far.test"])
async def test_programs_are_not_answered(tmp_path: Path, sender: str) -> None:
    async with QueueLab(tmp_path, more=answering) as lab:
        await lab.commit(INFO, body=LETTER, sender=sender)
        await lab.empty()
        assert lab.local.jobs == [] and lab.remote.jobs == []  # type: ignore[attr-defined]


# ---- programs


class Kept:
    """A pipe transport for tests: what it may run, and the outcomes it gave."""

    def __init__(self, *programs: str) -> None:
        self.programs = programs
        self.outcomes: list[Outcome] = []

    def __call__(self, lab: QueueLab) -> Mapping[str, Transport]:
        settings = lab.settings.model_copy(update={"pipe": lab.settings.pipe.model_copy(update={"programs": self.programs})})
        changes = RouteChanges(lambda: RULES, lambda: "here.test")
        inner, kept = PipeTransport(lambda: settings, lab.spool.open_message, changes), self

        class Watched(PipeTransport):
            async def _one(self, job: Job, recipient: object) -> Outcome:
                outcome = await inner._one(job, recipient)  # type: ignore[arg-type]
                kept.outcomes.append(outcome)
                return outcome

        return {"pipe": Watched(lambda: settings, lab.spool.open_message, changes)}


def piped(code: str, address: str = "robot+x@here.test", **limits: int) -> Route:
    return Route(RouteKind.PIPE, address, program=Program((sys.executable, "-I", "-c", code), **limits))


async def test_a_program_gets_the_message_and_its_envelope(tmp_path: Path) -> None:
    code = (
        "import os, sys, json\n"
        f"out = open({str(tmp_path / 'got')!r}, 'w')\n"
        "json.dump([sys.stdin.buffer.read().decode(), dict(os.environ)], out)\n"
    )
    async with QueueLab(tmp_path, more=Kept(sys.executable)) as lab:
        await lab.commit(piped(code), orcpt="rfc822;alias@here.test")
        await lab.empty(20)
    content, environment = json.loads((tmp_path / "got").read_text())
    assert content == "Return-Path: <alice@here.test>\nDelivered-To: robot+x@here.test\nFrom: alice@here.test\nSubject: test\n\nhello\n"
    assert environment["SENDER"] == "alice@here.test" and environment["RECIPIENT"] == "robot+x@here.test"
    assert environment["ORIGINAL_RECIPIENT"] == "alias@here.test" and environment["DOMAIN"] == "here.test"


@pytest.mark.parametrize(
    ("code", "kind", "enhanced"),
    [
        ("import sys; print('try later'); sys.exit(75)", Deferred, "4.3.0"),
        ("import sys; print('who?'); sys.exit(67)", Failed, "5.1.1"),
        ("import sys; sys.exit(1)", Failed, "5.3.0"),
        ("import os; os.kill(os.getpid(), 9)", Deferred, "4.3.0"),
        ("import time; time.sleep(60)", Deferred, "4.3.0"),
    ],
)
async def test_the_exit_code_of_a_program_is_the_outcome(tmp_path: Path, code: str, kind: type, enhanced: str) -> None:
    kept = Kept(sys.executable)
    async with QueueLab(tmp_path, more=kept, retry_initial_seconds=600, retry_max_seconds=600) as lab:
        await lab.commit(piped(code, seconds=1 if "sleep" in code else 30))
        await lab.until(lambda: kept.outcomes, 20)
    (outcome,) = kept.outcomes
    assert isinstance(outcome, kind) and outcome.enhanced == enhanced
    if "print" in code:
        assert outcome.reason.endswith(("try later", "who?"))


async def test_a_program_that_the_settings_do_not_name_is_not_run(tmp_path: Path) -> None:
    kept = Kept("/usr/bin/true")
    async with QueueLab(tmp_path, more=kept) as lab:
        message_id = await lab.commit(piped(f"open({str(tmp_path / 'ran')!r}, 'w')"))
        await lab.until(lambda: kept.outcomes, 20)
        assert isinstance(kept.outcomes[0], Deferred) and "pipe.programs" in kept.outcomes[0].reason
        assert not (tmp_path / "ran").exists()
        history = await lab.spool.history(message_id)
        assert "pipe.programs" in str(decode_detail(history[-1][3]))
