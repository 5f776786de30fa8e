"""The scheduler over the real spool: retry, expiry, reports, fairness, back-off, pauses, restarts."""

import asyncio
import email
import email.policy
import time
from email.message import EmailMessage
from pathlib import Path
from typing import Any, cast

import pytest

from gatepost.message.envelope import Envelope, Notify, Origin, Recipient
from gatepost.message.reply import RemoteReply
from gatepost.native import DiskFullError, NotFoundError
from gatepost.queue.actions import Order
from gatepost.queue.submit import Submitted
from gatepost.queue.transport import Deferred, Delivered, Failed, Job, Outcome
from gatepost.queue.views import Filter
from gatepost.routing.model import Route, RouteKind
from gatepost.spool import PlannedRecipient
from support.queue_lab import QueueLab, ScriptedTransport

DOWN = Deferred("connection refused", "4.4.1", destination_down=True)
BUSY = Deferred("mailbox busy", "4.2.0", RemoteReply(450, "4.2.0", "busy", "mx[192.0.2.1]:25", "RCPT"))
GONE = Failed("mx said: 550 5.1.1 no such user", "5.1.1", RemoteReply(550, "5.1.1", "no such user", "mx.far.test[192.0.2.1]:25", "RCPT"))


def fails(_job: Job, _address: str) -> Outcome:
    return GONE


async def report_of(lab: QueueLab) -> EmailMessage:
    """The first report in the queue, parsed; the local transport must be holding it back."""
    page = await lab.service.list(Filter(sender="<>"))
    reader = lab.service.open(page.messages[0].message_id)
    octets = b"".join(iter(lambda: reader.read(65536), b""))
    return cast(EmailMessage, email.message_from_bytes(octets, policy=email.policy.default))


async def test_mail_is_delivered_as_soon_as_it_is_queued(tmp_path: Path) -> None:
    async with QueueLab(tmp_path) as lab:
        await lab.submit("bob@here.test", "far@away.test")
        await lab.empty()
        assert lab.local.addresses() == ["bob@here.test"]  # type: ignore[attr-defined]
        assert lab.remote.addresses() == ["far@away.test"]  # type: ignore[attr-defined]


async def test_recipients_of_one_destination_travel_together(tmp_path: Path) -> None:
    async with QueueLab(tmp_path) as lab:
        await lab.submit("a@away.test", "b@away.test", "c@other.test")
        await lab.empty()
        assert sorted(len(job.recipients) for job in lab.remote.jobs) == [1, 2]  # type: ignore[attr-defined]


async def test_a_deferred_recipient_is_tried_again_later_and_later(tmp_path: Path) -> None:
    remote = ScriptedTransport()
    remote.script = lambda _job, _address: BUSY if len(remote.jobs) < 4 else Delivered()
    async with QueueLab(tmp_path, remote=remote) as lab:
        await lab.submit("far@away.test")
        await lab.empty()
        waits = [second - first for first, second in zip(remote.times, remote.times[1:], strict=False)]
        assert [round(wait, 1) for wait in waits] == [0.1, 0.2, 0.4]
        assert [job.recipients[0].attempts for job in remote.jobs] == [0, 1, 2, 3]


async def test_only_the_deferred_recipients_are_tried_again(tmp_path: Path) -> None:
    remote = ScriptedTransport(
        script=lambda job, address: BUSY if address.startswith("b") and not job.recipients[0].attempts else Delivered()
    )
    async with QueueLab(tmp_path, remote=remote) as lab:
        await lab.submit("a@away.test", "b@away.test")
        await lab.empty()
        assert remote.addresses() == ["a@away.test", "b@away.test", "b@away.test"]


async def test_a_failure_is_reported_to_the_sender(tmp_path: Path) -> None:
    async with QueueLab(tmp_path, remote=ScriptedTransport(script=fails)) as lab:
        await lab.scheduler.pause("local:main")
        message_id = await lab.submit("far@away.test", "gone@away.test", envid="ENV+1", ret="HDRS")
        await lab.until(lambda: lab.remote.jobs and lab.spool.stats()["messages"] == 1)  # type: ignore[attr-defined]
        with pytest.raises(NotFoundError):
            await lab.service.get(message_id)
        report = await report_of(lab)
        assert report.get_content_type() == "multipart/report"
        text = report.as_string()
        assert "Original-Envelope-Id: ENV+1" in text
        assert text.count("Action: failed") == 2
        assert "Diagnostic-Code: smtp; 550 5.1.1 no such user" in text
        assert "Remote-MTA: dns; mx.far.test" in text
        assert "Subject: test" in text
        assert [part.get_content_type() for part in report.iter_parts()][-1] == "text/rfc822-headers"
        await lab.service.resume_destination("local:main")
        await lab.empty()
        assert lab.reports()[0].recipients[0].address == "alice@here.test"


@pytest.mark.parametrize(("notify", "reports"), [(Notify.UNSET, 1), (Notify.NEVER, 0), (Notify.SUCCESS, 0), (Notify.FAILURE, 1)])
async def test_notify_decides_on_failure_reports(tmp_path: Path, notify: Notify, reports: int) -> None:
    async with QueueLab(tmp_path, remote=ScriptedTransport(script=fails)) as lab:
        await lab.submit("far@away.test", notify=notify)
        await lab.empty()
        assert len(lab.reports()) == reports


async def test_nothing_is_reported_to_the_null_reverse_path_nor_to_an_unknown_sender(tmp_path: Path) -> None:
    async with QueueLab(tmp_path, remote=ScriptedTransport(script=fails)) as lab:
        await lab.submit("far@away.test", sender="")
        await lab.submit("far@away.test", sender="nobody@here.test")
        await lab.empty()
        assert lab.local.jobs == []  # type: ignore[attr-defined]
        assert len(lab.remote.jobs) == 2  # type: ignore[attr-defined]


async def test_a_report_that_fails_is_not_reported(tmp_path: Path) -> None:
    async with QueueLab(tmp_path, remote=ScriptedTransport(script=fails)) as lab:
        await lab.submit("far@away.test", sender="someone@else.test")
        await lab.empty()
        assert lab.remote.addresses() == ["far@away.test", "someone@else.test"]  # type: ignore[attr-defined]


async def test_success_is_reported_when_asked_for_unless_the_next_hop_will(tmp_path: Path) -> None:
    promise = Delivered(RemoteReply(250, "2.0.0", "ok", "mx[192.0.2.1]:25"), relayed_dsn=True)
    plain = Delivered(RemoteReply(250, "2.0.0", "ok", "mx[192.0.2.1]:25"))
    remote = ScriptedTransport(script=lambda _job, address: promise if address.startswith("dsn") else plain)
    async with QueueLab(tmp_path, remote=remote) as lab:
        await lab.submit("dsn@away.test", "plain@away.test", "bob@here.test", notify=Notify.SUCCESS)
        await lab.empty()
        assert len(lab.reports()) == 2  # relayed (plain), delivered (bob); dsn's next hop reports itself


async def test_an_expired_message_is_returned_after_a_last_attempt(tmp_path: Path) -> None:
    remote = ScriptedTransport(script=lambda _job, _address: BUSY)
    async with QueueLab(tmp_path, remote=remote, expire_seconds=1) as lab:
        await lab.submit("far@away.test")
        await lab.empty()
        assert len(remote.jobs) >= 3
        assert remote.times[-1] - remote.times[0] == pytest.approx(1.0, abs=0.2)
        assert len(lab.reports()) == 1


async def test_a_delay_is_told_once_even_across_a_restart(tmp_path: Path) -> None:
    remote = ScriptedTransport(script=lambda _job, _address: BUSY)
    async with QueueLab(tmp_path, remote=remote, delay_notice_seconds=0.05) as lab:
        message_id = await lab.submit("far@away.test")
        await lab.until(lambda: len(remote.jobs) >= 4)
        assert len(lab.reports()) == 1
        notes = [entry for entry in await lab.service.history(message_id) if entry.detail.get("action") == "delay-notice"]
        assert len(notes) == 1
    remote = ScriptedTransport(script=lambda _job, _address: BUSY)
    async with QueueLab(tmp_path, remote=remote, delay_notice_seconds=0.05) as lab:
        await lab.until(lambda: len(remote.jobs) >= 2)
        assert lab.reports() == []


async def test_a_transport_that_raises_defers_and_the_next_attempt_may_succeed(tmp_path: Path) -> None:
    def script(job: Job, _address: str) -> Outcome:
        if not job.recipients[0].attempts:
            raise RuntimeError("bug")
        return Delivered()

    async with QueueLab(tmp_path, remote=ScriptedTransport(script=script)) as lab:
        message_id = await lab.submit("far@away.test")
        await lab.until(lambda: lab.remote.jobs)  # type: ignore[attr-defined]
        await lab.until(lambda: not lab.remote.running)  # type: ignore[attr-defined]
        await asyncio.sleep(0.02)
        assert "RuntimeError: bug" in str((await lab.service.get(message_id)).recipients[0].last)
        await lab.empty()


# ---- concurrency


async def test_a_destination_has_no_more_than_its_concurrency(tmp_path: Path) -> None:
    remote = ScriptedTransport(seconds=0.02)
    async with QueueLab(tmp_path, remote=remote, destination_concurrency=3) as lab:
        for _ in range(12):
            await lab.submit("far@away.test")
        await lab.empty()
        assert remote.most == 3


async def test_destinations_take_turns_when_there_is_not_room_for_all(tmp_path: Path) -> None:
    remote = ScriptedTransport(seconds=0.005)
    async with QueueLab(tmp_path, remote=remote, total_concurrency=2, destination_concurrency=2, start=False) as lab:
        for domain in ("big.test", "small.test", "tiny.test"):
            for _ in range(30 if domain == "big.test" else 3):
                await lab.submit(f"x@{domain}")
        await lab.scheduler.start()
        await lab.empty()
        assert remote.most == 2
        places = [place for place, name in enumerate(remote.order) if "big" not in name]
        assert max(places) < 20  # the small ones do not wait for all of the big one


async def test_local_mail_goes_in_batches(tmp_path: Path) -> None:
    batches: list[int] = []

    class Batches(ScriptedTransport):
        async def deliver(self, destination, jobs):  # type: ignore[no-untyped-def]
            batches.append(len(jobs))
            return await super().deliver(destination, jobs)

    local = Batches(batch=256, seconds=0.02)
    async with QueueLab(tmp_path, local=local, start=False) as lab:
        await asyncio.gather(*(lab.submit("bob@here.test") for _ in range(300)))
        await lab.scheduler.start()
        await lab.empty()
        assert sum(batches) == 300
        assert len(batches) <= 4


# ---- back-off of a destination


async def test_a_destination_that_is_down_is_left_alone_then_probed_by_one(tmp_path: Path) -> None:
    remote = ScriptedTransport(seconds=0.01)
    up = [False]
    remote.script = lambda _job, _address: Delivered() if up[0] else DOWN
    async with QueueLab(tmp_path, remote=remote, retry_initial_seconds=0.3, retry_max_seconds=0.3, destination_concurrency=5) as lab:
        for _ in range(20):
            await lab.submit("far@away.test")
        await asyncio.sleep(0.2)
        first = len(remote.jobs)
        assert first <= 5
        (destination,) = lab.service.destinations()
        assert destination.backoff_until
        assert destination.last_error == "connection refused"
        page = await lab.service.list()
        assert all(one.recipients[0].last["reason"] == "connection refused" for one in page.messages)
        remote.most = 0
        await asyncio.sleep(0.3)
        assert remote.most == 1  # the probe
        up[0] = True
        await lab.empty()
        assert remote.most > 1


async def test_only_what_was_tried_counts_an_attempt_while_a_destination_is_down(tmp_path: Path) -> None:
    remote = ScriptedTransport(script=lambda _job, _address: DOWN)
    waits = {"retry_initial_seconds": 0.3, "retry_max_seconds": 0.3, "destination_concurrency": 1}
    async with QueueLab(tmp_path, remote=remote, **waits) as lab:
        ids = [await lab.submit("far@away.test") for _ in range(20)]
        await lab.until(lambda: len(remote.jobs) >= 3)
        await asyncio.sleep(0.05)
        shown = [one.recipients[0] for one in (await lab.service.list()).messages]
        assert sum(one.attempts for one in shown) == len(remote.jobs) < 6
        assert all(one.next_attempt > lab.scheduler.now() for one in shown)
        records = [len(await lab.service.history(one)) for one in ids]
        assert sum(records) == 20 + len(remote.jobs)
        causes, recipients, messages = await lab.service.causes(10)
        assert (len(causes), recipients, messages) == (1, 20, 20)
    tried = len(remote.jobs)
    async with QueueLab(tmp_path, remote=remote, **waits) as lab:
        await lab.until(lambda: len(remote.jobs) > tried)
        await asyncio.sleep(0.05)
        shown = [one.recipients[0] for one in (await lab.service.list()).messages]
        assert all(one.next_attempt > lab.scheduler.now() and one.last["reason"] == "connection refused" for one in shown)
        assert sum(one.attempts for one in shown) == len(remote.jobs)
        remote.script = lambda _job, _address: Delivered()
        await lab.empty()


async def test_mail_that_was_never_tried_is_told_of_and_expires_in_time_while_its_destination_is_down(tmp_path: Path) -> None:
    remote = ScriptedTransport(script=lambda _job, _address: DOWN)
    waits = {"retry_initial_seconds": 60, "retry_max_seconds": 60, "destination_concurrency": 1}
    async with QueueLab(tmp_path, remote=remote, delay_notice_seconds=0.4, expire_seconds=3.5, **waits) as lab:
        began = time.monotonic()
        senders = [f"alice+{number}@here.test" for number in range(6)]
        for sender in senders:
            await lab.submit("far@away.test", sender=sender)
        await lab.until(lambda: len(lab.reports()) >= 5)  # of the one that was tried its sender may hear when it is tried again
        assert time.monotonic() - began > 0.3
        await lab.until(lambda: lab.spool.stats()["messages"] == 6)  # the reports are delivered, nothing expired
        told = [job.recipients[0].address for job in lab.reports()]
        assert set(told) <= set(senders)
        assert len(told) == len(set(told)), "told twice"
        await lab.empty()
        assert time.monotonic() - began > 3.3
        assert sorted(job.recipients[0].address for job in lab.reports()) == sorted([*told, *senders])
        assert len(remote.jobs) == 1


async def test_mail_for_other_destinations_goes_on(tmp_path: Path) -> None:
    remote = ScriptedTransport(script=lambda _job, address: DOWN if "away" in address else Delivered())
    async with QueueLab(tmp_path, remote=remote, retry_initial_seconds=60, retry_max_seconds=60) as lab:
        await lab.submit("far@away.test")
        await lab.submit("near@near.test")
        await lab.until(lambda: lab.spool.stats()["messages"] == 1)


async def test_mail_expires_while_its_destination_is_down(tmp_path: Path) -> None:
    remote = ScriptedTransport(script=lambda _job, _address: DOWN)
    async with QueueLab(tmp_path, remote=remote, retry_initial_seconds=0.3, retry_max_seconds=0.3, expire_seconds=1) as lab:
        for _ in range(5):
            await lab.submit("far@away.test")
        await lab.empty()
        assert len(lab.reports()) == 5


async def test_an_operators_retry_forgets_the_back_off(tmp_path: Path) -> None:
    remote = ScriptedTransport(script=lambda _job, _address: DOWN)
    async with QueueLab(tmp_path, remote=remote, retry_initial_seconds=600, retry_max_seconds=600) as lab:
        message_id = await lab.submit("far@away.test")
        await lab.until(lambda: remote.jobs and not remote.running)
        await asyncio.sleep(0.02)
        remote.script = lambda _job, _address: Delivered()
        assert (await lab.actions.retry(message_id, Order("operator"))).changed == 1
        await lab.empty()


# ---- operators


async def test_held_mail_waits_until_it_is_released(tmp_path: Path) -> None:
    async with QueueLab(tmp_path) as lab:
        message_id = await lab.submit("far@away.test", hold=True)
        await asyncio.sleep(0.05)
        assert lab.remote.jobs == []  # type: ignore[attr-defined]
        assert (await lab.service.get(message_id)).recipients[0].held
        assert (await lab.actions.hold(message_id, Order("me"))).changed == 0
        assert (await lab.actions.release(message_id, Order("me"))).changed == 1
        await lab.empty()


async def test_hold_stops_further_attempts_and_the_journal_names_the_operator(tmp_path: Path) -> None:
    remote = ScriptedTransport(script=lambda _job, _address: BUSY)
    async with QueueLab(tmp_path, remote=remote) as lab:
        message_id = await lab.submit("far@away.test")
        await lab.until(lambda: remote.jobs)
        assert (await lab.actions.hold(message_id, Order("carol"))).changed == 1
        await asyncio.sleep(0.05)
        count = len(remote.jobs)
        await asyncio.sleep(0.3)
        assert len(remote.jobs) == count
        history = await lab.service.history(message_id)
        assert history[0].kind == "accepted"
        assert any(entry.kind == "held" and entry.detail["by"] == "carol" for entry in history)


async def test_remove_with_a_report_and_without(tmp_path: Path) -> None:
    async with QueueLab(tmp_path, start=False) as lab:
        quiet = await lab.submit("far@away.test")
        told = await lab.submit("far@away.test")
        assert (await lab.actions.remove(quiet, Order("me"))).changed == 1
        assert (await lab.actions.remove(told + quiet, Order("me"), dsn=True)).changed == 1
        assert (await lab.service.list()).messages[0].reverse_path == ""
        assert len((await lab.service.list()).messages) == 1


async def test_reroute_gives_a_recipient_another_way(tmp_path: Path) -> None:
    remote = ScriptedTransport(script=lambda _job, address: BUSY if "away" in address else Delivered())
    async with QueueLab(tmp_path, remote=remote, retry_initial_seconds=600, retry_max_seconds=600) as lab:
        message_id = await lab.submit("far@away.test")
        await lab.until(lambda: remote.jobs and not remote.running)
        await asyncio.sleep(0.02)
        await lab.actions.reroute(message_id, {0: Route(RouteKind.SMTP, "far@new.test")}, Order("me"))
        await lab.empty()
        assert remote.addresses()[-1] == "far@new.test"


async def test_a_held_recipient_that_gets_another_way_goes_out(tmp_path: Path) -> None:
    async with QueueLab(tmp_path) as lab:
        message_id = await lab.submit("far@away.test", hold=True)
        await lab.actions.reroute(message_id, {0: Route(RouteKind.SMTP, "far@new.test")}, Order("me"))
        await lab.empty()


async def test_a_paused_destination_stays_paused_over_a_restart(tmp_path: Path) -> None:
    async with QueueLab(tmp_path) as lab:
        await lab.service.pause_destination("smtp:away.test:opportunistic", "me")
        await lab.submit("far@away.test")
        await asyncio.sleep(0.05)
        assert lab.remote.jobs == []  # type: ignore[attr-defined]
    async with QueueLab(tmp_path) as lab:
        await asyncio.sleep(0.05)
        assert lab.remote.jobs == []  # type: ignore[attr-defined]
        (destination,) = lab.service.destinations()
        assert (destination.paused, destination.pending) == (True, 1)
        await lab.service.resume_destination(destination.name, "me")
        await lab.empty()


async def test_lists_are_filtered_and_paged_in_order(tmp_path: Path) -> None:
    async with QueueLab(tmp_path, start=False) as lab:
        ids = [await lab.submit("far@away.test" if number % 2 else "bob@here.test") for number in range(20)]
        seen, token = [], ""
        while True:
            page = await lab.service.list(Filter(domain="away.test"), token, 3)
            seen += [one.message_id for one in page.messages]
            token = page.next_page_token
            if not token:
                break
        assert seen == ids[1::2]
        assert await lab.service.select(Filter(domain="here.test")) == b"".join(ids[::2])


async def test_watchers_see_what_happens(tmp_path: Path) -> None:
    remote = ScriptedTransport(script=lambda job, _address: Delivered() if job.recipients[0].attempts else BUSY)
    async with QueueLab(tmp_path, remote=remote) as lab:
        kinds: list[str] = []

        async def watch() -> None:
            async for event in lab.service.watch():
                kinds.append(event.kind)  # noqa: PERF401

        task = asyncio.create_task(watch())
        await asyncio.sleep(0.01)
        await lab.submit("far@away.test")
        await lab.empty()
        await asyncio.sleep(0.02)
        task.cancel()
        assert kinds == ["accepted", "deferred", "delivered"]


# ---- stopping and starting


async def test_a_restart_goes_on_where_it_stopped(tmp_path: Path) -> None:
    remote = ScriptedTransport(script=lambda _job, _address: BUSY)
    async with QueueLab(tmp_path, remote=remote, retry_initial_seconds=0.5, retry_max_seconds=0.5) as lab:
        await lab.submit("far@away.test")
        await lab.until(lambda: remote.jobs and not remote.running)
        await asyncio.sleep(0.02)
        deferred_at = time.monotonic()
    async with QueueLab(tmp_path, retry_initial_seconds=0.5, retry_max_seconds=0.5) as lab:
        await lab.empty()
        assert lab.remote.jobs[0].recipients[0].attempts == 1  # type: ignore[attr-defined]
        assert lab.remote.times[0] - deferred_at > 0.35  # type: ignore[attr-defined]


async def test_stopping_gives_unfinished_jobs_back_without_an_attempt(tmp_path: Path) -> None:
    slow = ScriptedTransport(seconds=60)
    async with QueueLab(tmp_path, remote=slow) as lab:
        await lab.submit("far@away.test")
        await lab.until(lambda: slow.running)
        await lab.scheduler.stop(0.05)
        assert slow.closed
        assert lab.spool.stats()["in_flight"] == 0
    async with QueueLab(tmp_path) as lab:
        await lab.empty()
        assert lab.remote.jobs[0].recipients[0].attempts == 0  # type: ignore[attr-defined]


async def test_stopping_waits_for_what_is_nearly_done(tmp_path: Path) -> None:
    slow = ScriptedTransport(seconds=0.2)
    async with QueueLab(tmp_path, remote=slow) as lab:
        await lab.submit("far@away.test")
        await lab.until(lambda: slow.running)
        await lab.scheduler.stop(5)
        assert lab.spool.stats()["messages"] == 0


# ---- reports are never lost


async def test_a_crash_between_report_and_record_repeats_the_report_and_does_not_lose_it(tmp_path: Path) -> None:
    async with QueueLab(tmp_path, remote=ScriptedTransport(script=fails)) as lab:
        await lab.scheduler.pause("local:main")
        lab.scheduler._outbox.put = lambda _changes: None  # type: ignore[method-assign]  # the process dies before the record is written
        await lab.submit("far@away.test")
        await lab.until(lambda: len(lab.spool.list_ids(None, 10)) == 2)
        first = (await report_of(lab))["Message-ID"]
    async with QueueLab(tmp_path, remote=ScriptedTransport(script=fails)) as lab:
        await lab.until(lambda: lab.remote.jobs and not lab.remote.running)  # type: ignore[attr-defined]
        assert (await report_of(lab))["Message-ID"] == first
        await lab.service.resume_destination("local:main")
        await lab.empty()
        assert 1 <= len(lab.reports()) <= 2


async def test_a_report_that_cannot_be_written_keeps_the_recipient(tmp_path: Path) -> None:
    async with QueueLab(tmp_path, remote=ScriptedTransport(script=fails)) as lab:
        submit, full = lab.submitter.submit, [True]

        async def no_space(*args: Any, **more: Any) -> Submitted:
            if full[0] and not args[0].reverse_path:
                full[0] = False
                raise DiskFullError("no space")
            return await submit(*args, **more)

        lab.submitter.submit = no_space  # type: ignore[method-assign]
        await lab.submit("far@away.test")
        await lab.empty()
        assert len(lab.remote.jobs) == 2  # type: ignore[attr-defined]
        assert len(lab.reports()) == 1


async def test_a_record_that_cannot_be_read_is_put_off_and_the_rest_goes_on(tmp_path: Path) -> None:
    async with QueueLab(tmp_path, start=False) as lab:
        envelope = Envelope("alice@here.test", (Recipient("far@away.test"),), Origin("SMTP"))
        incoming = lab.spool.receive(prefix=b"", max_bytes=0)
        incoming.feed_raw(b"Subject: x\r\n\r\n")
        incoming.finish()
        strange = PlannedRecipient("far@away.test", "", 0, "smtp:away.test:opportunistic", b"[1]")
        await lab.spool.commit(incoming, envelope, [strange], 1)
        await lab.submit("near@away.test")
        await lab.scheduler.start()
        await lab.until(lambda: lab.spool.stats()["messages"] == 1)
        assert lab.remote.addresses() == ["near@away.test"]  # type: ignore[attr-defined]
        await lab.until(lambda: lab.spool.stats()["in_flight"] == 0)
        (shown,) = (await lab.service.list()).messages
        assert shown.recipients[0].address == "far@away.test"
        assert (await lab.actions.remove(shown.message_id, Order("me"))).changed == 1
