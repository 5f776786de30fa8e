"""Quarantine over a real spool: what is withheld goes nowhere until it is released, and then once."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from gatepost.message.envelope import Envelope, Notify, Origin, Recipient
from gatepost.message.fields import HeaderView
from gatepost.message.verdict import QUARANTINE, SCAN_WAIT, Action, Answer, Finding, Verdict
from gatepost.native import K_HELD, NotFoundError, new_message_id
from gatepost.queue.actions import Order
from gatepost.queue.plan import Planner, merge_planned
from gatepost.queue.quarantine import DELETE, RELEASE, NoScannerError, Quarantine
from gatepost.queue.quarantine_views import Quarantined, QuarantineFilter, Scan
from gatepost.queue.views import Filter, QueuedMessage, RecipientStatus
from gatepost.queue.waiting import Waiting
from gatepost.routing.model import AddressHandler, DomainRule, HandlerKind, Route, RuleKind, RuleSet
from gatepost.routing.stages import Stage, StageAction, StagePolicy
from gatepost.scan.edits import SCAN_EDIT, renewed
from gatepost.scan.judge import Fate, Judgement, Stripped
from gatepost.scan.notice import Removed
from support.queue_lab import MESSAGE, RULES, QueueLab

VERDICT = Verdict(
    Action.QUARANTINE,
    "default",
    "program",
    "programs are not taken",
    (Finding("a.zip / b.exe", "executable", Action.QUARANTINE),),
    (Answer("clamd", "infected", "Eicar"),),
    1_700_000_000.0,
)
CLEAN = Judgement(Verdict(Action.ACCEPT, "default", at=1_700_000_500.0), (Fate.DELIVER,))
BAD = Judgement(VERDICT, (Fate.REJECT,))
HELD = Judgement(Verdict(Action.HOLD, "default", "macros"), (Fate.HOLD,))
OUT = Judgement(Verdict(Action.HOLD, "default", "scanner-out"), (Fate.WAIT,))


class Lab(QueueLab):
    """A queue with its quarantine."""

    def __init__(self, path: Path, **more: object) -> None:
        self.keep_days = more.pop("keep_days", 30.0)
        super().__init__(path, **more)  # type: ignore[arg-type]
        self.settings = self.settings.model_copy(
            update={"quarantine": self.settings.quarantine.model_copy(update={"keep_days": self.keep_days})}
        )
        self.rules: RuleSet = RULES
        self.answers: list[Judgement] = []
        self.asked: list[list[str]] = []

    async def __aenter__(self) -> "Lab":
        await super().__aenter__()
        self.quarantine = Quarantine(self.spool, self.actions, lambda: self.rules, lambda: self.settings, self.rescan)
        return self

    async def __aexit__(self, *args: object) -> None:
        await self.quarantine.stop()
        await super().__aexit__(*args)  # type: ignore[arg-type]

    async def rescan(self, message: object, recipients: Sequence[RecipientStatus]) -> Judgement:
        self.asked.append([one.address for one in recipients])
        return self.answers.pop(0)

    async def withhold(
        self, *recipients: str, destination: str = QUARANTINE, plain: tuple[str, ...] = (), body: bytes = MESSAGE, **more: object
    ) -> bytes:
        """A message in quarantine, as reception commits it; `plain` recipients are not, those `apart` are in any case."""
        apart = more.pop("apart", ())
        everyone = [Recipient(one, Notify.UNSET) for one in (*recipients, *plain)]
        origin = Origin("ESMTP", "192.0.2.9", listener="smtp")
        envelope = Envelope("mallory@evil.test", tuple(everyone), origin, verdict=more.pop("verdict", VERDICT))  # type: ignore[arg-type]
        plans = merge_planned(plan for plan in Planner().plan_all(self.rules, "", everyone, trusted=True) if isinstance(plan, tuple))

        def where(address: str) -> str:
            return QUARANTINE if address in apart else destination  # type: ignore[operator]

        planned = [one if one.address in plain else replace(one, destination=where(one.address), held=True) for one in plans]
        incoming = self.spool.receive(prefix=b"Received: here\r\n", max_bytes=0, allow_bare=True, message_id=new_message_id())
        incoming.feed_raw(body)
        incoming.finish()
        await self.spool.commit(incoming, envelope, planned, 7)
        return bytes(incoming.message_id)

    def delivered(self) -> list[str]:
        return sorted([*self.local.addresses(), *self.remote.addresses()])  # type: ignore[union-attr,attr-defined]


def order(kind: str = "test") -> Order:
    return Order("local:op", selection=kind)


async def test_what_is_in_quarantine_is_shown_with_its_verdict_and_goes_nowhere(tmp_path: Path) -> None:
    async with Lab(tmp_path) as lab:
        one = await lab.withhold(
            "alice@here.test", body=b"From: =?utf-8?q?M=C3=A4x?= <m@evil.test>\r\nSubject: win\r\n =?x?= big\r\n\r\nhi\r\n"
        )
        await lab.submit("bob@here.test")
        await lab.until(lambda: lab.delivered() == ["bob@here.test"])
        page = await lab.quarantine.page(QuarantineFilter())
        assert [(found.message.message_id, found.verdict, found.subject) for found in page.messages] == [(one, VERDICT, "win =?x?= big")]
        assert page.messages[0].header_from == "Mäx <m@evil.test>"
        assert not page.next_page_token and not page.messages[0].waiting
        with pytest.raises(NotFoundError):
            await lab.quarantine.get(new_message_id())
        assert lab.delivered() == ["bob@here.test"]


async def test_a_release_delivers_by_the_rules_as_they_are_now_and_only_once(tmp_path: Path) -> None:
    async with Lab(tmp_path) as lab:
        one = await lab.withhold("alice@here.test", "x@far.test")
        handler = AddressHandler("alice", HandlerKind.FORWARD, ("alice@new.test",))
        lab.rules = replace(RULES, rules={**RULES.rules, "here.test": DomainRule("here.test", RuleKind.HOSTED, handlers=(handler,))})
        done = await asyncio.gather(*(lab.quarantine.release(one, order()) for _ in range(5)))
        await lab.empty()
        assert lab.delivered() == ["alice@new.test", "x@far.test"]
        assert sorted(each.changed for each in done) == [0, 0, 0, 0, 1]


async def test_a_release_goes_the_way_that_a_stage_policy_sends_such_mail(tmp_path: Path) -> None:
    policy = StagePolicy(name="filter", stage=Stage.ROUTE, when="route.kind == 'smtp'", action=StageAction.REROUTE, host="filter.test")
    async with Lab(tmp_path) as lab:
        lab.rules = replace(RULES, stage_policies=(policy,))
        await lab.quarantine.release(await lab.withhold("alice@here.test", "x@far.test"), order())
        await lab.empty()
        assert [(one.address, one.route.host) for job in lab.remote.jobs for one in job.recipients] == [("x@far.test", "filter.test")]  # type: ignore[union-attr,attr-defined]
        assert lab.local.addresses() == ["alice@here.test"]  # type: ignore[union-attr,attr-defined]


async def test_a_release_for_one_recipient_leaves_the_others_in_quarantine(tmp_path: Path) -> None:
    async with Lab(tmp_path) as lab:
        one = await lab.withhold("alice@here.test", "bob@here.test")
        assert (await lab.quarantine.release(one, order(), ["BOB@here.test"])).changed == 1
        await lab.until(lambda: lab.delivered() == ["bob@here.test"])
        assert (await lab.quarantine.get(one)).message.recipients[0].destination == QUARANTINE
        assert (await lab.quarantine.delete(one, order())).changed == 1
        assert (await lab.quarantine.page(QuarantineFilter())).messages == ()


async def test_an_address_that_is_refused_now_stays_and_is_told(tmp_path: Path) -> None:
    async with Lab(tmp_path) as lab:
        one = await lab.withhold("alice@here.test", "bob@here.test")
        lab.rules = replace(RULES, mailboxes={"bob@here.test": RULES.mailboxes["bob@here.test"]})
        done = await lab.quarantine.release(one, order())
        assert (done.changed, done.refused) == (1, 1) and "alice@here.test would be refused now: 550" in done.first_refusal
        await lab.until(lambda: lab.delivered() == ["bob@here.test"])
        assert (await lab.quarantine.get(one)).message.recipients[0].pending


async def test_a_release_and_a_delete_are_undone(tmp_path: Path) -> None:
    async with Lab(tmp_path, start=False) as lab:
        one = await lab.withhold("alice@here.test")
        for act, kind in ((lab.quarantine.release, RELEASE), (lab.quarantine.delete, DELETE)):
            done = await act(one, order())
            assert done.operation is not None and done.operation.kind == kind
            assert (await lab.quarantine.page(QuarantineFilter())).messages == ()
            assert (await lab.actions.undo(done.operation.operation_id, "op")).undo["undone"] == 1
            found = (await lab.quarantine.get(one)).message.recipients[0]
            assert (found.destination, found.held) == (QUARANTINE, True)


async def test_queue_commands_leave_quarantined_recipients_where_they_are(tmp_path: Path) -> None:
    async with Lab(tmp_path) as lab:
        quarantined = await lab.withhold("alice@here.test")
        waiting = await lab.withhold("alice@here.test", destination=SCAN_WAIT)
        mixed = await lab.withhold("alice@here.test", plain=("x@far.test",))
        held = await lab.submit("bob@here.test", hold=True)
        await lab.until(lambda: lab.delivered() == ["x@far.test"])
        everything = quarantined + waiting + mixed + held
        released = await lab.actions.release(everything, order())
        assert released.changed == 1
        await lab.actions.retry(everything, order())
        await lab.until(lambda: lab.delivered() == ["bob@here.test", "x@far.test"])
        await asyncio.sleep(0.2)
        assert lab.delivered() == ["bob@here.test", "x@far.test"]
        assert {one.message.message_id for one in (await lab.quarantine.page(QuarantineFilter())).messages} == {quarantined, waiting, mixed}


async def test_a_held_recipient_beside_a_quarantined_one_is_released_alone(tmp_path: Path) -> None:
    async with Lab(tmp_path, start=False) as lab:
        mixed = await lab.withhold("alice@here.test", plain=("bob@here.test",))
        await lab.spool.change([(mixed, 1, K_HELD, 0, b"{}")])
        assert (await lab.actions.release(mixed, order())).changed == 1
        assert [one.held for one in (await lab.service.get(mixed)).recipients] == [True, False]


async def test_removing_with_a_report_tells_no_sender_of_quarantined_mail(tmp_path: Path) -> None:
    async with Lab(tmp_path) as lab:
        one = await lab.withhold("alice@here.test")
        held = await lab.submit("bob@here.test", hold=True, sender="alice@here.test")
        assert (await lab.actions.remove(one + held, order(), dsn=True)).changed == 2
        await lab.until(lambda: len(lab.reports()) == 1)
        await asyncio.sleep(0.2)
        assert len(lab.reports()) == 1 and lab.spool.stats()["messages"] == 0


async def test_a_page_is_bounded_and_the_next_one_goes_on_over_both_destinations(tmp_path: Path) -> None:
    async with Lab(tmp_path, start=False) as lab:
        other = replace(VERDICT, rule="macro", answers=())
        made = [
            await lab.withhold("alice@here.test", destination=QUARANTINE if n % 3 else SCAN_WAIT, verdict=VERDICT if n % 2 else other)
            for n in range(20)
        ]
        for wanted, all_of_it in ((QuarantineFilter(), made), (QuarantineFilter(text="EICAR"), made[1::2])):
            found, token = [], ""
            while True:
                page = await lab.quarantine.page(wanted, token, 7)
                assert len(page.messages) <= 7
                assert all(one.subject for one in page.messages)
                found += [one.message.message_id for one in page.messages]
                if not (token := page.next_page_token):
                    break
            assert found == all_of_it
        assert await lab.quarantine.select(QuarantineFilter(waiting=True)) == b"".join(made[::3])
        assert await lab.quarantine.select(QuarantineFilter(text="EICAR")) == b"".join(made[1::2])
        assert await lab.quarantine.select(QuarantineFilter(Filter(recipient="bob*"))) == b""


async def test_a_rescan_is_noted_and_releases_only_when_told_and_clean(tmp_path: Path) -> None:
    async with Lab(tmp_path) as lab:
        one = await lab.withhold("alice@here.test")
        lab.answers = [Judgement(VERDICT, (Fate.QUARANTINE,)), CLEAN, CLEAN]
        assert (await lab.quarantine.rescan(one, order(), release_if_clean=True)).released is None
        assert (await lab.quarantine.rescan(one, order())).released is None
        scans = (await lab.quarantine.get(one)).scans
        assert [(scan.by, scan.verdict.action) for scan in scans] == [
            ("", Action.QUARANTINE),
            ("local:op", Action.QUARANTINE),
            ("local:op", Action.ACCEPT),
        ]
        history = await lab.service.history(one)
        assert history[-1].kind == "note" and history[-1].detail["action"] == "scanned again: accept, policy default"
        assert (await lab.quarantine.rescan(one, order(), release_if_clean=True)).released is not None
        await lab.until(lambda: lab.delivered() == ["alice@here.test"])


async def test_without_a_scanner_a_rescan_says_so(tmp_path: Path) -> None:
    async with Lab(tmp_path, start=False) as lab:
        one = await lab.withhold("alice@here.test")
        without = Quarantine(lab.spool, lab.actions, lambda: RULES, lambda: lab.settings)
        with pytest.raises(NoScannerError):
            await without.rescan(one, order())


async def test_what_is_too_old_is_removed_in_batches_by_the_server_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatepost.queue.quarantine.BATCH", 2)
    async with Lab(tmp_path, keep_days=0.3 / 86_400) as lab:
        for _ in range(5):
            await lab.withhold("alice@here.test")
        waiting = await lab.withhold("alice@here.test", destination=SCAN_WAIT)
        await asyncio.sleep(0.4)
        lab.quarantine.start()
        await lab.until(lambda: lab.spool.stats()["messages"] == 1)
        # The last message is gone a moment before its operation says so.
        await lab.until(lambda: all(one.state == "done" for one in lab.actions.operations()))
        operations = lab.actions.operations()
        assert [(one.actor, one.kind, one.changed) for one in operations] == [("gatepost", "quarantine expire", n) for n in (1, 2, 2)]
        assert [one.message_id for one in [await lab.service.get(waiting)]] == [waiting]
        await lab.actions.undo(operations[0].operation_id, "op")
        assert lab.spool.stats()["messages"] == 2


async def test_who_waits_for_a_scanner_does_not_expire_with_those_in_quarantine(tmp_path: Path) -> None:
    async with Lab(tmp_path, keep_days=0.1 / 86_400) as lab:
        one = await lab.withhold("alice@here.test", "bob@here.test", destination=SCAN_WAIT, apart=("alice@here.test",))
        await asyncio.sleep(0.2)
        assert await lab.quarantine.expire() == 1
        assert [each.state for each in (await lab.service.get(one)).recipients] == ["REMOVED", "PENDING"]


async def test_a_release_cut_short_between_route_and_letting_go_is_finished_at_the_next_start(tmp_path: Path) -> None:
    async with Lab(tmp_path, start=False) as lab:
        one, other = await lab.withhold("alice@here.test"), await lab.withhold("bob@here.test")
        done = await lab.quarantine.release(one + other, order())
        assert done.operation is not None
        # As after a crash: the last record of `other` is its new route.
        lab.actions._log.update(replace(done.operation, state="running"))
        await lab.spool.change([(other, 0, K_HELD, 0, b"{}")])
        await lab.spool.reroute(
            other,
            0,
            "bob@here.test",
            "local:main",
            (await lab.service.get(other)).recipients[0].route.encode(),
            b'{"op":"%b","by":"x"}' % done.operation.operation_id.encode(),
        )
    async with Lab(tmp_path) as lab:
        assert (await lab.service.get(other)).recipients[0].held
        lab.quarantine.start()
        await lab.empty()
        assert lab.delivered() == ["alice@here.test", "bob@here.test"]


async def test_many_quarantined_messages_cost_a_page_what_the_page_holds(tmp_path: Path) -> None:
    async with Lab(tmp_path, start=False) as lab:
        for _ in range(300):
            await lab.withhold("alice@here.test")
        began = time.monotonic()
        page = await lab.quarantine.page(QuarantineFilter(), "", 10)
        assert len(page.messages) == 10 and page.next_page_token
        assert time.monotonic() - began < 5


def waiting(lab: Lab, seconds: float = 3600.0) -> Waiting:
    return Waiting(lab.spool, lab.quarantine, lambda: lab.settings, lambda message, one: seconds)


async def test_waiting_mail_is_scanned_again_when_the_scanner_is_back_and_goes_where_its_verdict_says(tmp_path: Path) -> None:
    async with Lab(tmp_path) as lab:
        _, bad, held, out = [await lab.withhold("alice@here.test", destination=SCAN_WAIT) for _ in range(4)]
        lab.answers = [CLEAN, BAD, HELD, OUT]
        watch = waiting(lab)
        watch.start()
        watch.wake("clamd")
        await lab.until(lambda: not lab.answers and lab.delivered() == ["alice@here.test"])
        await lab.until(lambda: {row[0] for row in lab.spool.destinations()} == {QUARANTINE, SCAN_WAIT, "local:main"})
        await watch.stop()
        assert [one.message.message_id for one in (await lab.quarantine.page(QuarantineFilter(waiting=False))).messages] == [bad]
        assert [one.message.message_id for one in (await lab.quarantine.page(QuarantineFilter(waiting=True))).messages] == [out]
        recipient = (await lab.service.get(held)).recipients[0]
        assert (recipient.held, recipient.destination) == (True, "local:main")
        assert lab.delivered() == ["alice@here.test"] and {one.actor for one in lab.actions.operations()} == {"gatepost"}
        assert [scan.verdict for scan in (await lab.quarantine.get(out)).scans] == [VERDICT], "an outage is not noted each time"


async def test_mail_waits_no_longer_than_a_look_for_a_scanner_that_failed_once_and_stayed_in_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gatepost.queue.waiting.LOOK_SECONDS", 0.05)
    async with Lab(tmp_path) as lab:
        await lab.withhold("alice@here.test", destination=SCAN_WAIT)
        lab.answers = [CLEAN]
        in_service = False
        watch = Waiting(lab.spool, lab.quarantine, lambda: lab.settings, lambda message, one: 3600.0, lambda: in_service)
        watch.start()
        await asyncio.sleep(0.2)
        assert len(lab.answers) == 1, "a scanner that is out is left alone until it comes back"
        in_service = True
        await lab.until(lambda: lab.delivered() == ["alice@here.test"])
        await watch.stop()


async def test_mail_that_was_scanned_again_goes_out_with_a_field_of_the_newest_verdict(tmp_path: Path) -> None:
    async with Lab(tmp_path) as lab:
        body = b"X-Gatepost-Scan: gate; hold; policy=default;\r\n\trule=scanner-out\r\nSubject: x\r\nDKIM-Signature: a\r\n\r\nhi\r\n"
        waited = await lab.withhold("x@far.test", destination=SCAN_WAIT, body=body)
        never = await lab.withhold("y@far.test", body=body)
        lab.answers = [replace(CLEAN, verdict=Verdict(Action.ACCEPT, "default", answers=(Answer("clamd", "clean"),)))]
        assert await waiting(lab).settle(scan=True) == 1
        await lab.quarantine.release(never, order())
        await lab.empty()
        routes = {one.address: one.route for job in lab.remote.jobs for one in job.recipients}  # type: ignore[attr-defined]
        assert routes["x@far.test"].edits == (("scan", f"{lab.settings.hostname}; accept; policy=default; clamd=clean"),)
        assert routes["y@far.test"].edits == (), "nothing was found out since"
        octets = received(body, routes["x@far.test"], lab.settings.hostname)
        field = f"X-Gatepost-Scan: {lab.settings.hostname}; accept; policy=default;".encode()
        assert octets.startswith(field) and octets.count(b"X-Gatepost-Scan") == 1 and b"scanner-out" not in octets
        assert octets.endswith(b"Subject: x\r\nDKIM-Signature: a\r\n\r\nhi\r\n"), "no word of a broken signature: none is"
        assert waited != never


async def test_each_recipient_that_waited_goes_by_its_own_policy_and_those_in_quarantine_stay(tmp_path: Path) -> None:
    async with Lab(tmp_path) as lab:
        one = await lab.withhold("alice@here.test", "bob@here.test", "x@far.test", destination=SCAN_WAIT, apart=("x@far.test",))
        lab.answers = [replace(CLEAN, fates=(Fate.DELIVER, Fate.WAIT))]
        await waiting(lab).settle(scan=True)
        await lab.until(lambda: lab.delivered() == ["alice@here.test"])
        lab.answers = [replace(CLEAN, fates=(Fate.QUARANTINE,))]
        await waiting(lab).settle(scan=True)
        assert lab.asked == [["alice@here.test", "bob@here.test"], ["bob@here.test"]]
        assert [each.destination for each in (await lab.service.get(one)).recipients[1:]] == [QUARANTINE, QUARANTINE]
        assert lab.delivered() == ["alice@here.test"]


async def test_what_would_lose_a_part_goes_to_quarantine_for_all_who_waited(tmp_path: Path) -> None:
    async with Lab(tmp_path) as lab:
        await lab.withhold("alice@here.test", destination=SCAN_WAIT)
        lab.answers = [replace(CLEAN, strip=(Stripped(1, Removed("a.doc", "macros")),))]
        await waiting(lab).settle(scan=True)
        assert len((await lab.quarantine.page(QuarantineFilter(waiting=False))).messages) == 1


async def test_each_recipient_waits_as_long_as_its_own_policy_says(tmp_path: Path) -> None:
    async with Lab(tmp_path) as lab:
        one = await lab.withhold("alice@here.test", "bob@here.test", destination=SCAN_WAIT)

        def seconds(message: QueuedMessage, recipient: RecipientStatus) -> float:
            return 0.0 if recipient.address.startswith("alice") else 3600.0

        watch = Waiting(lab.spool, lab.quarantine, lambda: lab.settings, seconds)
        assert await watch.settle(scan=False) == 1
        assert [each.destination for each in (await lab.service.get(one)).recipients] == [QUARANTINE, SCAN_WAIT]


def received(body: bytes, route: Route, hostname: str) -> bytes:
    """What the next host gets of a message by this route."""
    (value,) = (value for kind, value in route.edits if kind == SCAN_EDIT)
    out, at = b"", 0
    for start, end, octets in sorted(renewed(HeaderView(body), value), key=lambda edit: edit[:2]):
        out, at = out + body[at:start] + octets, end
    return out + body[at:]


@pytest.mark.parametrize("after_wait", ["quarantine", "release"])
async def test_mail_that_waited_too_long_goes_where_the_setting_says(tmp_path: Path, after_wait: str) -> None:
    async with Lab(tmp_path) as lab:
        section = lab.settings.quarantine.model_copy(update={"after_wait": after_wait})
        lab.settings = lab.settings.model_copy(update={"quarantine": section})
        one = await lab.withhold("alice@here.test", destination=SCAN_WAIT)
        assert await waiting(lab).settle(scan=False) == 0
        lab.answers = [OUT]
        assert await waiting(lab, seconds=0.0).settle(scan=True) == 1
        if after_wait == "release":
            await lab.until(lambda: lab.delivered() == ["alice@here.test"])
        else:
            assert not (await lab.quarantine.get(one)).waiting and lab.delivered() == []


async def test_a_pass_stops_asking_a_scanner_that_is_out_and_goes_through_all_that_waits(tmp_path: Path) -> None:
    async with Lab(tmp_path) as lab:
        for _ in range(100):
            await lab.withhold("alice@here.test", destination=SCAN_WAIT)
        lab.answers = [OUT] * 8
        assert await waiting(lab).settle(scan=True) == 0 and lab.answers == []
        lab.answers = [CLEAN] * 100
        assert await waiting(lab).settle(scan=True) == 100
        await lab.empty()
        assert lab.delivered() == ["alice@here.test"] * 100


@pytest.mark.parametrize(
    ("later", "infected"),
    [
        ((), True),
        ((Answer("other", "clean"),), True),
        ((Answer("clamd", "error", "no connection"),), True),
        ((Answer("clamd", "clean"),), False),
        ((Answer("clamd", "clean"), Answer("other", "infected", "X")), True),
    ],
)
def test_mail_is_infected_until_the_scanner_that_said_so_says_otherwise(later: tuple[Answer, ...], infected: bool) -> None:
    first = Scan(1, "", VERDICT)
    found = Quarantined(None, (first, Scan(2, "ann", Verdict(Action.ACCEPT, answers=later))))  # type: ignore[arg-type]
    assert found.infected is infected
