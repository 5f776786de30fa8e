"""Jobs in a row over one session: the next envelope travels with the end of the data before it (RFC 2920 3.1)."""

from collections.abc import Callable
from typing import Any

import pytest

from gatepost.delivery.smtp import SmtpTransport
from gatepost.queue.transport import Deferred, Delivered, Failed, Job, JobResult
from support.delivery import make_job
from support.smtp_peer import CLOSE, SmtpPeer

Make = Callable[..., SmtpTransport]


class ListLane:
    """Gives jobs from a list, and keeps their results."""

    def __init__(self, jobs: list[Job]) -> None:
        self.jobs = jobs
        self.results: list[tuple[Job, JobResult]] = []

    def direct(self) -> None:
        return None

    def may_go_on(self) -> bool:
        return True

    def take(self) -> Job | None:
        return self.next()

    def next(self) -> Job | None:
        return self.jobs.pop(0) if self.jobs else None

    async def done(self, job: Job, result: JobResult) -> None:
        self.results.append((job, result))

    def kinds(self) -> list[type]:
        return [type(result.outcomes[0]) for _, result in self.results]


async def chain(transport: SmtpTransport, *jobs: Job) -> ListLane:
    lane = ListLane(list(jobs))
    await transport.chain("d", lane)  # type: ignore[arg-type]
    return lane


def row(port: int, count: int, **more: Any) -> list[Job]:
    return [make_job(f"u{number}@x.test", port=port, **more) for number in range(count)]


async def test_a_row_of_jobs_uses_one_session_and_arrives_in_order(transport: Make) -> None:
    async with SmtpPeer() as peer:
        lane = await chain(transport(), *row(peer.port, 6))
        assert lane.kinds() == [Delivered] * 6
        assert peer.connections == 1
        assert [heard.rcpts[0].split("<")[1].split(">")[0] for heard in peer.transactions] == [f"u{n}@x.test" for n in range(6)]
        assert len({heard.data for heard in peer.transactions}) == 1


async def test_a_peer_without_pipelining_is_served_one_command_at_a_time(transport: Make) -> None:
    async with SmtpPeer(capabilities=()) as peer:
        assert (await chain(transport(), *row(peer.port, 4))).kinds() == [Delivered] * 4


async def test_refusals_in_the_middle_touch_only_their_own_job(transport: Make) -> None:
    refused = {"RCPT": ["250 Ok\r\n", "250 Ok\r\n", "550 5.1.1 no\r\n", "250 Ok\r\n"]}
    async with SmtpPeer(refused) as peer:
        assert (await chain(transport(), *row(peer.port, 5))).kinds() == [Delivered, Delivered, Failed, Delivered, Delivered]
        assert peer.connections == 1
    empty_data = {**refused, "DATA": ["354 go\r\n"], "end": ["250 Ok\r\n", "250 Ok\r\n", "554 5.5.1 none\r\n", "250 Ok\r\n"]}
    async with SmtpPeer(empty_data) as peer:
        assert (await chain(transport(), *row(peer.port, 5))).kinds() == [Delivered, Delivered, Failed, Delivered, Delivered]
    async with SmtpPeer({"end": ["250 Ok\r\n", "554 5.7.1 spam\r\n", "451 4.3.0 later\r\n", "250 Ok\r\n"]}) as peer:
        assert (await chain(transport(), *row(peer.port, 5))).kinds() == [Delivered, Failed, Deferred, Delivered, Delivered]
        assert peer.connections == 1


@pytest.mark.parametrize("answer", [CLOSE, "421 4.3.2 enough\r\n" + CLOSE])
async def test_a_session_that_breaks_takes_down_only_the_job_whose_data_were_sent(transport: Make, answer: str) -> None:
    async with SmtpPeer({"end": ["250 Ok\r\n", "250 Ok\r\n", answer, "250 Ok\r\n"]}) as peer:
        lane = await chain(transport(), *row(peer.port, 6))
        assert sorted(kind.__name__ for kind in lane.kinds()) == ["Deferred"] + ["Delivered"] * 5
        assert len({job.recipients[0].address for job, _ in lane.results}) == 6
        assert peer.connections == 2


async def test_a_session_closed_after_a_message_costs_no_attempt(transport: Make) -> None:
    async with SmtpPeer({"end": ["250 Ok\r\n", "250 Ok\r\n" + CLOSE, "250 Ok\r\n"]}) as peer:
        lane = await chain(transport(), *row(peer.port, 5))
        assert lane.kinds() == [Delivered] * 5
        assert len(peer.transactions) == 5 - 1  # the peer of the test forgets the one it hung up on


async def test_the_share_of_a_session_is_kept(transport: Make) -> None:
    async with SmtpPeer() as peer:
        lane = await chain(transport(delivery={"max_deliveries_per_connection": 3}), *row(peer.port, 9))
        assert lane.kinds() == [Delivered] * 9
        assert peer.connections == 3


async def test_jobs_that_need_a_closer_look_go_their_own_way(transport: Make) -> None:
    async with SmtpPeer(capabilities=("PIPELINING", "SIZE 1000")) as peer:
        jobs = row(peer.port, 3)
        jobs[2:2] = [
            make_job("a@x.test", "b@x.test", port=peer.port),
            make_job("ü@x.test", port=peer.port),
            make_job("big@x.test", port=peer.port, size=1001),
        ]
        lane = await chain(transport(), *jobs)
        assert lane.kinds() == [Delivered, Delivered, Delivered, Failed, Failed, Delivered]
        assert [job for job, _ in lane.results] == [jobs[0], jobs[1], *jobs[2:5], jobs[5]]


async def test_a_destination_that_is_down_ends_with_every_job_reported(transport: Make) -> None:
    async with SmtpPeer() as peer:
        port = peer.port
    lane = await chain(transport(), *row(port, 3))
    assert lane.kinds() == [Deferred] * 3
