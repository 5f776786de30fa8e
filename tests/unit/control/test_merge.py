"""One queue out of several workers': pages, ids, bulk calls, watching, submitting, and workers that are away."""

import asyncio
import time
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest

from gatepost.api.common.v1 import common_pb2 as common
from gatepost.api.queue.v1 import queue_pb2 as api
from gatepost.api.queue.v1 import queue_pb2_grpc
from gatepost.message.envelope import Notify
from gatepost.message.ids import parse_message_id
from gatepost.routing.model import DomainRule, RuleKind
from support.control import Plane


@pytest.fixture
def stub(unix: grpc.aio.Channel) -> queue_pb2_grpc.QueueServiceStub:
    return queue_pb2_grpc.QueueServiceStub(unix)


def spread(plane: Plane, count: int) -> list[str]:
    """Messages over the workers, unevenly; their ids in order."""
    return [plane.workers[number % 3 % 2].queue.add(number, f"user{number}@example.net") for number in range(1, count + 1)]


async def pages(stub: queue_pb2_grpc.QueueServiceStub, size: int, **wanted: object) -> list[list[str]]:
    found, token = [], ""
    while True:
        answer = await stub.ListMessages(api.ListMessagesRequest(filter=wanted, page_size=size, page_token=token))
        found.append([message.message_id for message in answer.messages])
        token = answer.next_page_token
        if not token:
            return found


async def listed(stub: queue_pb2_grpc.QueueServiceStub, size: int, **wanted: object) -> list[str]:
    return [one for page in await pages(stub, size, **wanted) for one in page]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
async def test_pages_of_all_workers_come_in_order_without_gaps_or_repeats(plane: Plane, stub, size: int):
    ids = spread(plane, 20)
    found = await pages(stub, size)
    assert [one for page in found for one in page] == ids
    assert all(len(page) <= size for page in found)


async def test_a_page_never_runs_ahead_of_a_worker_that_has_more(plane: Plane, stub):
    early = [plane.workers[0].queue.add(number) for number in range(1, 6)]
    late = [plane.workers[1].queue.add(number) for number in range(10, 12)]
    answer = await stub.ListMessages(api.ListMessagesRequest(page_size=2))
    assert [message.message_id for message in answer.messages] == early[:2]
    assert await listed(stub, 2) == early + late


async def test_filters_reach_every_worker(plane: Plane, stub):
    ids = spread(plane, 9)
    assert await listed(stub, 4, recipient="user[37]@*") == []  # no character classes: a glob has * and ? only
    assert await listed(stub, 4, recipient="user3@*") == [ids[2]]
    assert await listed(stub, 4, domain="EXAMPLE.net") == ids
    assert await listed(stub, 4, reply_contains="GREYlist") == ids
    assert await listed(stub, 4, held=True) == []


@pytest.mark.parametrize(
    ("request_fields", "field"),
    [
        ({"page_token": "nonsense"}, "page_token"),
        ({"page_size": -1}, "page_size"),
        ({"filter": {"sender": "x" * 501}}, "filter.sender"),
        ({"filter": {"older_than": {"seconds": -5}}}, "filter.older_than"),
        ({"filter": {"state": 77}}, "filter.state"),
    ],
)
async def test_a_bad_list_request_names_its_field(plane: Plane, stub, request_fields, field: str):
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await stub.ListMessages(api.ListMessagesRequest(**request_fields))
    assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    detail = common.ErrorInfo.FromString(dict(failure.value.trailing_metadata())["gatepost-error-bin"])
    assert detail.violations[0].field == field


async def test_a_message_is_found_in_whichever_worker_has_it(plane: Plane, stub):
    ids = spread(plane, 6)
    for one in ids:
        answer = await stub.GetMessage(api.GetMessageRequest(message_id=one))
        assert answer.message.message_id == one
        assert answer.message.origin.client_address == "192.0.2.1"
        assert answer.history[0].reply.code == 451
        assert [(field.name, field.value) for field in answer.headers][1] == ("Subject", "test  folded")


async def test_a_prefix_that_fits_one_message_stands_for_it(plane: Plane, stub):
    ids = spread(plane, 3)
    assert (await stub.GetMessage(api.GetMessageRequest(message_id=ids[1][:13]))).message.message_id == ids[1]
    for text, code in (
        (ids[0][:8], grpc.StatusCode.INVALID_ARGUMENT),  # fits all three, in two workers
        (ids[0][:4], grpc.StatusCode.INVALID_ARGUMENT),  # too short
        ("xyz", grpc.StatusCode.INVALID_ARGUMENT),
        ("ffffffff-ffff-7fff-8fff-ffffffffffff", grpc.StatusCode.NOT_FOUND),
        ("00000000", grpc.StatusCode.NOT_FOUND),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await stub.GetMessage(api.GetMessageRequest(message_id=text))
        assert failure.value.code() is code, text


async def test_a_message_is_downloaded_in_chunks(plane: Plane, stub):
    body = b"Subject: big\r\n\r\n" + b"0123456789abcdef" * 20_000
    one = plane.workers[1].queue.add(7, body=body)
    chunks = [part.chunk async for part in stub.DownloadMessage(api.DownloadMessageRequest(message_id=one))]
    assert b"".join(chunks) == body
    assert max(map(len, chunks)) <= 65536


async def test_a_bulk_call_reaches_its_messages_and_counts_them(plane: Plane, stub):
    ids = spread(plane, 8)
    answer = (await stub.HoldMessages(api.HoldMessagesRequest(selection={"message_ids": [ids[0], ids[1], ids[5]]}))).result
    assert (answer.matched, answer.changed, list(answer.message_ids)) == (3, 3, [ids[0], ids[1], ids[5]])
    assert await listed(stub, 10, held=True) == [ids[0], ids[1], ids[5]]
    again = (await stub.HoldMessages(api.HoldMessagesRequest(selection={"all": True}))).result
    assert (again.matched, again.changed) == (8, 5)
    released = (await stub.ReleaseMessages(api.ReleaseMessagesRequest(selection={"filter": {"held": True}}))).result
    assert (released.matched, released.changed) == (8, 8)


async def test_a_dry_run_counts_and_changes_nothing(plane: Plane, stub):
    ids = spread(plane, 5)
    answer = (await stub.RemoveMessages(api.RemoveMessagesRequest(selection={"all": True}, dry_run=True))).result
    assert (answer.matched, answer.changed, list(answer.message_ids)) == (5, 0, ids)
    assert await listed(stub, 10) == ids


async def test_an_unknown_id_among_others_changes_nothing(plane: Plane, stub):
    ids = spread(plane, 4)
    selection = {"message_ids": [*ids, "0193ffff-ffff-7fff-8fff-ffffffffffff"]}
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await stub.RemoveMessages(api.RemoveMessagesRequest(selection=selection))
    assert failure.value.code() is grpc.StatusCode.NOT_FOUND
    assert await listed(stub, 10) == ids


async def test_what_came_after_a_preview_is_not_touched(plane: Plane, stub):
    first = spread(plane, 3)
    preview = (await stub.HoldMessages(api.HoldMessagesRequest(selection={"all": True}, dry_run=True))).result
    await asyncio.sleep(0.01)
    plane.workers[0].queue.add(50)
    selection = {"filter": {"min_size": 0, "received_before": preview.selected_at}}
    answer = (await stub.HoldMessages(api.HoldMessagesRequest(selection=selection))).result
    assert list(answer.message_ids) == first


@pytest.mark.parametrize("selection", [{}, {"filter": {}}, {"all": True, "message_ids": ["01930000-0001"]}, {"message_ids": ["abcd"]}])
async def test_a_selection_must_say_one_thing(plane: Plane, stub, selection):
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await stub.HoldMessages(api.HoldMessagesRequest(selection=selection))
    assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_workers_learn_who_asked_and_whether_to_send_a_report(plane: Plane, stub):
    one = plane.workers[1].queue.add(1)
    request = api.RemoveMessagesRequest(selection={"message_ids": [one]}, send_dsn=True)
    await stub.RemoveMessages(request, metadata=[("gatepost-user", "karin")])
    assert plane.workers[1].queue.calls == [("remove", (parse_message_id(one),), "local:karin", True)]


async def test_stats_are_summed_and_free_space_is_the_least(plane: Plane, stub):
    spread(plane, 8)
    answer = await stub.GetStats(api.GetStatsRequest())
    assert answer.total.messages == 8
    assert sorted(one.messages for one in answer.workers.values()) == [2, 6] or sum(one.messages for one in answer.workers.values()) == 8
    assert answer.total.free_octets == min(one.free_octets for one in answer.workers.values())


async def test_destinations_are_summed_paused_and_resumed_everywhere(plane: Plane, stub):
    spread(plane, 6)
    (one,) = (await stub.ListDestinations(api.ListDestinationsRequest())).destinations
    assert (one.pending, one.paused) == (6, False)
    assert (await stub.PauseDestination(api.PauseDestinationRequest(name=one.name))).destination.paused
    assert all(worker.queue.paused == {one.name} for worker in plane.workers)
    assert not (await stub.ResumeDestination(api.ResumeDestinationRequest(name=one.name))).destination.paused
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await stub.PauseDestination(api.PauseDestinationRequest())
    assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_message_is_rerouted_by_route_by_address_and_by_the_rules(plane: Plane, stub):
    one = plane.workers[1].queue.add(1, "a@example.net", "b@example.net")
    route = common.Route(kind=common.ROUTE_KIND_LMTP, host="192.0.2.7")
    answer = await stub.RerouteMessage(api.RerouteMessageRequest(message_id=one, recipients=["B@example.net"], route=route))
    assert [(r.host, r.port, r.address) for r in answer.routes] == [("192.0.2.7", 24, "b@example.net")]
    answer = await stub.RerouteMessage(api.RerouteMessageRequest(message_id=one, recipients=["a@example.net"], new_address="c@example.org"))
    assert answer.routes[0].address == "c@example.org"
    answer = await stub.RerouteMessage(api.RerouteMessageRequest(message_id=one, by_rules=True))
    assert answer.changed == 2
    for fields, code in (
        ({"message_id": one}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"message_id": one, "by_rules": True, "recipients": ["nobody@x.test"]}, grpc.StatusCode.NOT_FOUND),
        ({"message_id": one, "route": common.Route(kind=common.ROUTE_KIND_LOCAL)}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"message_id": one, "route": common.Route(kind=common.ROUTE_KIND_SMTP, host="a b\r\n")}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"message_id": one, "route": common.Route(kind=common.ROUTE_KIND_SMTP, address="x\ny@z")}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"message_id": one, "new_address": "nonsense"}, grpc.StatusCode.INVALID_ARGUMENT),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await stub.RerouteMessage(api.RerouteMessageRequest(**fields))
        assert failure.value.code() is code


async def test_a_watch_merges_the_events_of_all_workers_and_filters_them(plane: Plane, stub):
    ids = spread(plane, 4)
    call = stub.WatchQueue(api.WatchQueueRequest())
    await call.initial_metadata()  # the watch is in place
    await stub.HoldMessages(api.HoldMessagesRequest(selection={"all": True}))
    seen = {(await asyncio.wait_for(call.read(), 5)).message_id for _ in range(4)}
    assert seen == set(ids)
    call.cancel()


async def test_a_watch_survives_the_restart_of_a_worker(plane: Plane, stub):
    one = plane.workers[1].queue.add(1)
    call = stub.WatchQueue(api.WatchQueueRequest())
    await call.initial_metadata()
    await plane.workers[1].stop()
    gone = await asyncio.wait_for(call.read(), 5)
    assert (gone.kind, gone.worker) == (api.QUEUE_EVENT_KIND_WORKER, 1)
    await plane.workers[1].start()
    back = await asyncio.wait_for(call.read(), 10)
    assert "is back" in back.text
    await stub.HoldMessages(api.HoldMessagesRequest(selection={"message_ids": [one]}))
    held = await asyncio.wait_for(call.read(), 5)
    assert (held.kind, held.message_id) == (api.QUEUE_EVENT_KIND_HELD, one)
    call.cancel()


async def test_with_a_worker_away_what_is_there_is_answered_and_marked_partial(plane: Plane, stub):
    here, away = plane.workers[0].queue.add(1), plane.workers[1].queue.add(2)
    await plane.workers[1].stop()
    began = time.monotonic()
    answer = await stub.ListMessages(api.ListMessagesRequest())
    assert time.monotonic() - began < 4
    assert answer.partial
    assert "worker 1" in answer.warnings[0]
    assert [message.message_id for message in answer.messages] == [here]
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await stub.GetMessage(api.GetMessageRequest(message_id=away))
    assert failure.value.code() is grpc.StatusCode.UNAVAILABLE  # not NOT_FOUND: it may well be there
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await stub.PauseDestination(api.PauseDestinationRequest(name="smtp:x:none"))
    assert failure.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_worker_that_is_back_within_two_seconds_is_waited_for(plane: Plane, stub):
    ids = spread(plane, 4)
    await plane.workers[1].stop()
    listing = stub.ListMessages(api.ListMessagesRequest())  # under way from here on
    await asyncio.sleep(0.5)
    await plane.workers[1].start()
    answer = await listing
    assert not answer.partial
    assert [message.message_id for message in answer.messages] == ids


async def requests(*parts: dict[str, object]) -> AsyncIterator[api.SubmitMessageRequest]:
    for part in parts:
        yield api.SubmitMessageRequest(**part)


HEADER = {"sender": "a@example.org", "recipients": [{"address": "b@example.net", "notify": ["FAILURE", "delay"]}]}


async def test_submit_queues_a_message_in_one_of_the_workers_in_turn(plane: Plane, stub):
    for _ in range(4):
        parts = requests({"header": HEADER}, {"chunk": b"Subject: x\r\n\r\n"}, {"chunk": b"y\r\n"}, {"finish": {"size": 17}})
        answer = await stub.SubmitMessage(parts)
        assert answer.size == 17
    assert [len(worker.submitter.envelopes) for worker in plane.workers] == [2, 2]
    envelope = plane.workers[0].submitter.envelopes[0]
    assert envelope.recipients[0].notify == Notify.FAILURE | Notify.DELAY
    assert envelope.origin.protocol == "GRPC"


async def test_submit_goes_round_a_worker_that_is_not_healthy(plane: Plane, stub):
    plane.workers[1].healthy = False
    for _ in range(3):
        await stub.SubmitMessage(requests({"header": HEADER}, {"chunk": b"x\r\n"}, {"finish": {}}))
    assert [len(worker.submitter.envelopes) for worker in plane.workers] == [3, 0]


@pytest.mark.parametrize(
    ("parts", "code"),
    [
        ([], grpc.StatusCode.INVALID_ARGUMENT),
        ([{"chunk": b"x"}], grpc.StatusCode.INVALID_ARGUMENT),
        ([{"header": {"sender": "a@b.test"}}, {"finish": {}}], grpc.StatusCode.INVALID_ARGUMENT),
        ([{"header": HEADER}, {"chunk": b"half a mess"}], grpc.StatusCode.CANCELLED),
        ([{"header": HEADER}, {"chunk": b"abc"}, {"finish": {"size": 4}}], grpc.StatusCode.INVALID_ARGUMENT),
        ([{"header": HEADER}, {"header": HEADER}], grpc.StatusCode.INVALID_ARGUMENT),
        ([{"header": {**HEADER, "sender": "a@b.test>\r\nRCPT TO:<c@d.test"}}, {"finish": {}}], grpc.StatusCode.INVALID_ARGUMENT),
        ([{"header": {**HEADER, "recipients": [{"address": "c@d.test\r\n"}]}}, {"finish": {}}], grpc.StatusCode.INVALID_ARGUMENT),
        ([{"header": {**HEADER, "recipients": [{"address": "not one"}]}}, {"finish": {}}], grpc.StatusCode.INVALID_ARGUMENT),
        ([{"header": {**HEADER, "envelope_id": "a b\r\n"}}, {"finish": {}}], grpc.StatusCode.INVALID_ARGUMENT),
        (
            [{"header": {**HEADER, "recipients": [{"address": "c@d.test", "original_recipient": "x\r\ny"}]}}],
            grpc.StatusCode.INVALID_ARGUMENT,
        ),
        ([{"header": HEADER}, {"chunk": b"x" * (1 << 21)}, {"finish": {}}], grpc.StatusCode.INVALID_ARGUMENT),
        ([{"header": HEADER}, *[{"chunk": b"x" * (1 << 19)}] * 4, {"finish": {}}], grpc.StatusCode.RESOURCE_EXHAUSTED),
        ([{"header": {**HEADER, "return_content": "ALL"}}, {"finish": {}}], grpc.StatusCode.INVALID_ARGUMENT),
        ([{"header": {**HEADER, "recipients": [{"address": "x@y.test", "notify": ["NEVER", "DELAY"]}]}}], grpc.StatusCode.INVALID_ARGUMENT),
        ([{"header": {**HEADER, "recipients": [{"address": "x@refused.test"}]}}, {"finish": {}}], grpc.StatusCode.FAILED_PRECONDITION),
    ],
)
async def test_a_submission_that_is_not_whole_and_good_queues_nothing(plane: Plane, stub, parts, code):
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await stub.SubmitMessage(requests(*parts), timeout=10)
    assert failure.value.code() is code, failure.value.details()
    assert all(not worker.queue.rows for worker in plane.workers)


async def test_a_submission_whose_client_goes_away_queues_nothing(plane: Plane, stub):
    async def endless() -> AsyncIterator[api.SubmitMessageRequest]:
        yield api.SubmitMessageRequest(header=HEADER)
        while True:
            yield api.SubmitMessageRequest(chunk=b"x")
            await asyncio.sleep(0.02)

    call = stub.SubmitMessage(endless())
    await asyncio.sleep(0.3)
    call.cancel()
    await asyncio.sleep(0.3)
    assert all(not worker.queue.rows for worker in plane.workers)


async def test_a_reroute_by_the_rules_knows_the_delimiter_of_the_settings(plane: Plane, stub):
    plane.directory.put_rule(DomainRule("example.org", RuleKind.HOSTED), create=True, author="test")
    plane.directory.add_user("bob@example.org", None, author="test")
    await plane.changed()
    one = plane.workers[0].queue.add(1, "bob=lists@example.org")
    for delimiter, code in (("+", grpc.StatusCode.FAILED_PRECONDITION), ("=", None)):
        worker = plane.workers[0]
        worker.settings = worker.settings.model_copy(
            update={"smtp": worker.settings.smtp.model_copy(update={"recipient_delimiter": delimiter})}
        )
        call = stub.RerouteMessage(api.RerouteMessageRequest(message_id=one, by_rules=True))
        if code is None:
            assert [route.address for route in (await call).routes] == ["bob=lists@example.org"]
            continue
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await call
        assert failure.value.code() is code
