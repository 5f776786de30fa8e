"""Operations of an operator and their undo over the real spool, scheduler and journal of one worker, restarts included."""

import asyncio
import json
from pathlib import Path

import pytest

from gatepost.queue.actions import Order, RerouteRefusedError, UndoRefusedError, UnknownOperationError
from gatepost.queue.transport import Deferred, Delivered
from gatepost.queue.views import Filter
from gatepost.routing.model import Route, RouteKind
from support.queue_lab import QueueLab, ScriptedTransport

ME = Order("local:me")
BUSY = Deferred("mx said: 450 4.2.0 busy", "4.2.0")
WAY = Route(RouteKind.SMTP, "far@new.test")


def lab(path: Path, **more) -> QueueLab:
    script = ScriptedTransport(script=lambda _job, _address: BUSY)
    return QueueLab(path, remote=script, retry_initial_seconds=600, retry_max_seconds=600, **more)


async def state(one: QueueLab, message_id: bytes):
    """(address, destination, state, held, due) of each recipient."""
    message = await one.service.get(message_id)
    return [(r.address, r.destination, r.state, r.held, r.next_attempt) for r in message.recipients]


async def deferred(one: QueueLab, count: int) -> list[bytes]:
    """Messages of two recipients, each deferred once."""
    ids = [await one.submit(f"a{n}@away.test", f"b{n}@far.test") for n in range(count)]

    async def tried() -> bool:
        return all([all(r.attempts == 1 for r in (await one.service.get(message_id)).recipients) for message_id in ids])

    for _ in range(500):
        if await tried():
            return ids
        await asyncio.sleep(0.01)
    raise AssertionError("not tried in time")


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("action", ["hold", "release", "remove", "reroute"])
async def test_an_undo_brings_back_the_very_state_also_after_a_restart(tmp_path: Path, action: str, restart: bool):
    async with lab(tmp_path) as one:
        ids = await deferred(one, 3)
        packed = b"".join(ids)
        if action == "release":
            await one.actions.hold(packed, ME)
        before = [await state(one, message_id) for message_id in ids]
        if action == "reroute":
            done = await one.actions.reroute_all(packed, lambda _: {0: WAY, 1: WAY}, ME)
        else:
            done = await getattr(one.actions, action)(packed, ME)
        assert done.changed == 3
        assert done.operation is not None
        operation = done.operation.operation_id
        if action == "remove":
            assert (await one.service.list()).messages == ()
            assert len((await one.service.list(Filter(state="REMOVED"))).messages) == 3
            assert one.spool.stats()["messages"] == 0
        else:
            assert [await state(one, message_id) for message_id in ids] != before
        if not restart:
            undone = await one.actions.undo(operation, "local:you")
    if restart:
        async with lab(tmp_path) as one:
            undone = await one.actions.undo(operation, "local:you")
            assert [await state(one, message_id) for message_id in ids] == before
    assert undone.undo == {
        "undone": 3,
        "recipients": 6,
        **dict.fromkeys(("partly", "finished", "changed", "untouched", "already", "unreadable"), 0),
    }
    async with lab(tmp_path) as one:
        assert [await state(one, message_id) for message_id in ids] == before
        history = await one.service.history(ids[0])
        assert history[-1].detail["by"] == "local:you"
        assert history[-1].detail["undo"] == operation
        assert any(entry.detail.get("op") == operation and entry.detail["by"] == "local:me" for entry in history)
        known = one.actions.operations()[0]
        assert (known.state, known.undone_by, known.changed) == ("undone", "local:you", 3)
        again = await one.actions.undo(operation, "local:you")
        assert (again.undo["already"], again.undo["undone"]) == (3, 0)


async def test_after_its_grace_removed_mail_is_gone_and_the_undo_is_refused(tmp_path: Path):
    async with lab(tmp_path, undo_seconds=0.3) as one:
        message_id = (await deferred(one, 1))[0]
        done = await one.actions.remove(message_id, ME)
        await one.until(lambda: one.spool.stats()["removed"] == 0)
        with pytest.raises(UndoRefusedError, match="is over"):
            await one.actions.undo(done.operation.operation_id, "local:me")
        await one.until(lambda: not list((tmp_path / "p0" / "operations").glob("*.ids")))


async def test_without_a_grace_a_removal_is_final_at_once(tmp_path: Path):
    async with lab(tmp_path, undo_seconds=0) as one:
        message_id = (await deferred(one, 1))[0]
        done = await one.actions.remove(message_id, ME)
        assert one.spool.stats()["removed"] == 0
        with pytest.raises(UndoRefusedError, match="undo_seconds"):
            await one.actions.undo(done.operation.operation_id, "local:me")


async def test_a_removal_that_told_the_senders_cannot_be_undone(tmp_path: Path):
    async with lab(tmp_path) as one:
        message_id = (await deferred(one, 1))[0]
        done = await one.actions.remove(message_id, ME, dsn=True)
        await one.until(one.reports)
        with pytest.raises(UndoRefusedError, match="told"):
            await one.actions.undo(done.operation.operation_id, "local:me")
        assert one.spool.stats()["removed"] == 0


async def test_mail_delivered_meanwhile_is_counted_and_not_brought_back(tmp_path: Path):
    async with lab(tmp_path) as one:
        ids = [await one.submit(f"a{n}@away.test", hold=True) for n in range(4)]
        one.remote.script = lambda _job, address: Delivered() if address < "a2" else BUSY
        done = await one.actions.release(b"".join(ids), ME)
        await one.until(lambda: one.spool.stats()["messages"] == 2)
        undone = await one.actions.undo(done.operation.operation_id, "local:me")
        assert (undone.undo["undone"], undone.undo["finished"]) == (2, 2)
        assert all([(await state(one, message_id))[0][3] for message_id in ids[2:]])


async def test_a_message_being_delivered_when_it_is_removed_is_not_sent_twice(tmp_path: Path):
    slow = ScriptedTransport(seconds=0.3)
    async with QueueLab(tmp_path, remote=slow) as one:
        message_id = await one.submit("far@away.test")
        await one.until(lambda: slow.running)
        done = await one.actions.remove(message_id, ME)
        assert done.changed == 1
        await one.actions.undo(done.operation.operation_id, "local:me")
        await one.empty()
        assert slow.addresses() == ["far@away.test"]
        done = await one.actions.remove(await one.submit("far@away.test"), ME)


async def test_an_operation_of_nothing_is_none_and_unknown_ones_are_refused(tmp_path: Path):
    async with lab(tmp_path) as one:
        assert (await one.actions.hold(bytes(160), ME)).operation is None
        for bad in ("", "x", "../../etc/passwd", "0193ffff-0000-7000-8000-000000000000"):
            with pytest.raises(UnknownOperationError):
                await one.actions.undo(bad, "local:me")
        message_id = (await deferred(one, 1))[0]
        done = await one.actions.retry(message_id, ME)
        with pytest.raises(UndoRefusedError, match="retry"):
            await one.actions.undo(done.operation.operation_id, "local:me")


async def test_a_bulk_reroute_leaves_what_cannot_go_that_way(tmp_path: Path):
    def choose(message):
        if message.recipients[0].address.startswith("a1"):
            raise RerouteRefusedError("550 no such user")
        return {n: WAY for n in range(len(message.recipients))}

    async with lab(tmp_path) as one:
        ids = await deferred(one, 3)
        done = await one.actions.reroute_all(b"".join(ids) + bytes(16), choose, ME)
        assert (done.changed, done.refused, done.first_refusal) == (2, 1, "550 no such user")
        undone = await one.actions.undo(done.operation.operation_id, "local:me")
        assert (undone.undo["undone"], undone.undo["untouched"], undone.undo["finished"]) == (2, 1, 1)


async def test_a_lost_list_of_ids_or_operations_is_no_worse_than_no_undo(tmp_path: Path):
    async with lab(tmp_path) as one:
        message_id = (await deferred(one, 1))[0]
        done = await one.actions.hold(message_id, ME)
        (ids,) = (tmp_path / "p0" / "operations").glob("*.ids")
        ids.unlink()
        with pytest.raises(UndoRefusedError, match="cannot be read"):
            await one.actions.undo(done.operation.operation_id, "local:me")
        (tmp_path / "p0" / "operations" / f"{done.operation.operation_id}.json").write_text("[")
        # A list that cannot be written costs the undo, not the operation.
        for file in (tmp_path / "p0" / "operations").iterdir():
            file.unlink()
        (tmp_path / "p0" / "operations").rmdir()
        (tmp_path / "p0" / "operations").write_text("in the way")
        done = await one.actions.release(message_id, ME)
        assert done.changed == 1
        assert "could not be written down" in done.operation.reason


async def test_causes_are_grouped_over_messages_with_an_example(tmp_path: Path):
    async with lab(tmp_path) as one:
        ids = await deferred(one, 3)
        causes, recipients, messages = await one.service.causes(10)
        assert (recipients, messages) == (6, 6)
        assert {(cause[0][0], cause[0][1], cause[0][4]) for cause in causes} == {("local", "4.2.0", "mx said: 450 4.2.0 busy")}
        assert {cause[0][3] for cause in causes} == {"smtp:away.test:opportunistic", "smtp:far.test:opportunistic"}
        assert all(cause[1][:3] == (3, 0, 3) for cause in causes)
        assert all(cause[2][0] == ids[0] and json.loads(cause[2][2])["reason"] == "mx said: 450 4.2.0 busy" for cause in causes)
        await one.actions.hold(b"".join(ids), ME)
        assert all(cause[1][1] == 3 and cause[1][3] == 0 for cause in (await one.service.causes(10))[0])
        assert len((await one.service.causes(1))[0]) == 1
