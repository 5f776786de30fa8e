"""The pool: deadlines, bounds, memory, taking out of service and bringing back, and what it makes of answers that are none."""

import asyncio
from typing import Any

import pytest

from gatepost.scan.scanners.blob import MemoryBlob, MemoryPart, PartBlob
from gatepost.scan.scanners.breaker import State
from gatepost.scan.scanners.plugin import ContentRefused, ScanAnswer, ScannerFault
from support.scanners import FACTS, TameScanner, mail, pool_of, table, until


def tame(**more: Any) -> Any:
    return table("plug", **more)


async def test_scanners_are_asked_side_by_side_and_answer_in_the_order_asked() -> None:
    running = 0
    most = 0

    async def slow(_: PartBlob) -> ScanAnswer:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.05)
        running -= 1
        return ScanAnswer("", "clean")

    scanners = [TameScanner(slow), TameScanner(slow), TameScanner(slow)]
    tables = [tame(name=name) for name in ("one", "two", "three")]
    async with pool_of(*tables, scanners=scanners) as pool:
        answers = await pool.ask(mail(), FACTS, ("three", "one", "two"))
    assert [answer.scanner for answer in answers] == ["three", "one", "two"]
    assert most == 3


async def test_a_scanner_that_does_not_exist_is_an_error() -> None:
    async with pool_of() as pool:
        (answer,) = await pool.ask(mail(), FACTS, ("nobody",))
    assert (answer.scanner, answer.outcome) == ("nobody", "error")


async def test_a_scanner_that_ignores_its_cancellation_does_not_keep_the_mail() -> None:
    stubborn_ended = asyncio.Event()

    async def stubborn(_: PartBlob) -> ScanAnswer:
        end = asyncio.get_running_loop().time() + 0.8
        while (left := end - asyncio.get_running_loop().time()) > 0:
            try:
                await asyncio.sleep(left)
            except asyncio.CancelledError:
                continue
        stubborn_ended.set()
        return ScanAnswer("", "clean")

    async with pool_of(
        tame(timeout_seconds=0.1), tame(name="quick"), scanners=[TameScanner(stubborn), TameScanner()], deadline=0.2
    ) as pool:
        late, quick = await asyncio.wait_for(pool.ask(mail(), FACTS, ("plug", "quick")), 0.6)
        assert not stubborn_ended.is_set()
        assert (late.outcome, late.outage, quick.outcome) == ("error", True, "clean")
        await stubborn_ended.wait()


@pytest.mark.parametrize(
    "said",
    [
        None,
        "clean",
        ScanAnswer("", "fine"),
        ScanAnswer("", ""),
        ScanAnswer("", "clean", score=float("nan")),
        ScanAnswer("", "clean", score="high"),  # type: ignore[arg-type]
        ScanAnswer("", "clean", name=b"x"),  # type: ignore[arg-type]
        ScanAnswer("", "clean", fields=(("X-Spam", "a\r\nBcc: b"),)),
        ScanAnswer("", "clean", fields=(("X Spam", "a"),)),
        ScanAnswer("", "clean", fields=(("X-Spam",),)),  # type: ignore[arg-type]
        ScanAnswer("", "clean", fields=(("X-Spam", "a" * 5000),)),
        ScanAnswer("", "clean", fields=(("X-Spam", "a"),) * 51),
        ScanAnswer("", "clean", fields=7),  # type: ignore[arg-type]
    ],
    ids=repr,
)
async def test_what_is_no_answer_is_an_error_and_never_clean(said: object) -> None:
    async def reply(_: PartBlob) -> Any:
        return said

    async with pool_of(tame(), scanners=[TameScanner(reply)]) as pool:
        (answer,) = await pool.ask(mail(), FACTS, ("plug",))
    assert (answer.outcome, answer.outage) == ("error", True)


@pytest.mark.parametrize(
    "fault", [ScannerFault("no"), OSError("no"), ValueError("no"), RecursionError(), KeyError("x"), TimeoutError()], ids=repr
)
async def test_whatever_a_scanner_raises_is_an_error(fault: Exception) -> None:
    scanner = TameScanner()
    async with pool_of(tame(), scanners=[scanner]) as pool:
        scanner.fault = fault
        (answer,) = await pool.ask(mail(), FACTS, ("plug",))
    assert (answer.outcome, answer.outage) == ("error", True)
    assert answer.name


async def test_texts_of_a_scanner_are_one_line_and_cut() -> None:
    async def reply(_: PartBlob) -> ScanAnswer:
        return ScanAnswer("another", "infected", "Eicar\r\nX: \x1b[31m" + "x" * 1000)

    async with pool_of(tame(), scanners=[TameScanner(reply)]) as pool:
        (answer,) = await pool.ask(mail(), FACTS, ("plug",))
    assert answer.scanner == "plug"
    assert answer.name.startswith("Eicar X:  [31mxxx")
    assert len(answer.name) <= 300


async def test_it_goes_out_of_service_after_failures_in_a_row_and_comes_back_by_a_probe() -> None:
    scanner = TameScanner()
    back: list[str] = []
    async with pool_of(tame(failures=3, retry_seconds=0.15), scanners=[scanner]) as pool:
        pool.on_back(back.append)
        await until(lambda: scanner.probes)
        scanner.fault = ScannerFault("gone")
        for _ in range(3):
            await pool.ask(mail(), FACTS, ("plug",))
        assert pool.states()[0].state is State.OPEN
        asked = len(scanner.seen)
        (answer,) = await pool.ask(mail(), FACTS, ("plug",))
        assert (answer.outcome, answer.outage, answer.name) == ("error", True, "out of service: gone")
        assert len(scanner.seen) == asked, "mail is not put to a scanner out of service"
        scanner.fault = None
        await until(lambda: back)
        assert back == ["plug"]
        assert pool.states()[0].state is State.TRYING
        (answer,) = await pool.ask(mail(), FACTS, ("plug",))
        assert answer.outcome == "clean"
        assert pool.states()[0].state is State.CLOSED


async def test_failures_that_are_not_in_a_row_leave_it_in_service() -> None:
    scanner = TameScanner()
    async with pool_of(tame(failures=2, cache=False), scanners=[scanner]) as pool:
        for _ in range(4):
            scanner.fault = ScannerFault("hiccup")
            await pool.ask(mail(), FACTS, ("plug",))
            scanner.fault = None
            await pool.ask(mail(), FACTS, ("plug",))
        assert pool.states()[0].state is State.CLOSED


async def test_a_scanner_that_is_not_there_at_the_start_is_out_of_service_before_mail_waits_for_it() -> None:
    scanner = TameScanner()
    scanner.fault = ConnectionRefusedError("nobody listens")
    async with pool_of(tame(), scanners=[scanner]) as pool:
        await until(lambda: pool.states()[0].state is State.OPEN)
        await pool.ask(mail(), FACTS, ("plug",))
        assert scanner.seen == []


async def test_a_scanner_that_fails_in_use_after_a_good_probe_waits_longer_each_time() -> None:
    async def failing(_: PartBlob) -> ScanAnswer:
        raise ScannerFault("engine not ready")

    scanner = TameScanner(failing)
    back: list[float] = []
    loop = asyncio.get_running_loop()
    async with pool_of(tame(failures=1, retry_seconds=0.05, retry_max_seconds=10), scanners=[scanner]) as pool:
        pool.on_back(lambda _name: back.append(loop.time()))
        gone: list[float] = []
        for _ in range(3):
            await pool.ask(mail(), FACTS, ("plug",))
            gone.append(loop.time())
            count = len(gone)
            await until(lambda: len(back) == count)  # noqa: B023
        waits = [returned - left for returned, left in zip(back, gone, strict=True)]
    assert waits[1] > waits[0] * 1.5
    assert waits[2] > waits[1] * 1.5


async def test_content_that_a_scanner_refuses_is_an_error_and_no_outage() -> None:
    scanner = TameScanner()
    async with pool_of(tame(failures=1), scanners=[scanner]) as pool:
        scanner.fault = ContentRefused("too large for me")
        (answer,) = await pool.ask(mail(), FACTS, ("plug",))
        assert (answer.outcome, answer.outage, answer.name) == ("error", False, "too large for me")
        assert pool.states()[0].state is State.CLOSED


async def test_content_above_the_limit_is_an_error_without_being_sent() -> None:
    scanner = TameScanner()
    async with pool_of(tame(max_bytes=10), scanners=[scanner]) as pool:
        (answer,) = await pool.ask(mail(), FACTS, ("plug",))
    assert (answer.outcome, answer.outage, scanner.seen) == ("error", False, [])


async def test_no_more_scans_run_at_once_than_allowed_and_no_more_wait() -> None:
    running = 0
    most = 0
    go = asyncio.Event()

    async def slow(_: PartBlob) -> ScanAnswer:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await go.wait()
        running -= 1
        return ScanAnswer("", "clean")

    async with pool_of(tame(max_connections=2, max_waiting=3, cache=False), scanners=[TameScanner(slow)]) as pool:
        asks = [asyncio.create_task(pool.ask(mail(b"%d" % n), FACTS, ("plug",))) for n in range(9)]
        await until(lambda: sum(task.done() for task in asks) == 4)
        go.set()
        answers = [(await task)[0] for task in asks]
    assert most == 2
    assert [answer.outcome for answer in answers].count("clean") == 5
    assert {answer.name for answer in answers if answer.outcome == "error"} == {"too many scans wait for it"}


async def test_waiting_in_vain_for_a_turn_is_an_error_that_says_nothing_of_its_health() -> None:
    async def slow(_: PartBlob) -> ScanAnswer:
        await asyncio.sleep(0.5)
        return ScanAnswer("", "clean")

    async with pool_of(tame(max_connections=1, failures=1), scanners=[TameScanner(slow)], deadline=0.6) as pool:
        first = asyncio.create_task(pool.ask(mail(b"1"), FACTS, ("plug",)))
        await asyncio.sleep(0)
        others = [asyncio.create_task(pool.ask(mail(b"%d" % n), FACTS, ("plug",))) for n in range(2, 5)]
        assert (await first)[0].outcome == "clean"
        assert {(await task)[0].name for task in others} == {"busy with other mail"}
        assert pool.states()[0].state is State.CLOSED


async def test_an_answer_is_remembered_until_the_signatures_change() -> None:
    scanner = TameScanner()
    async with pool_of(tame(probe_seconds=0.05), scanners=[scanner]) as pool:
        await until(lambda: pool.states()[0].signatures == "1")
        for _ in range(3):
            await pool.ask(mail(), FACTS, ("plug",))
        assert len(scanner.seen) == 1
        scanner.version = "2"
        await until(lambda: pool.states()[0].signatures == "2")
        await pool.ask(mail(), FACTS, ("plug",))
        assert len(scanner.seen) == 2
        assert pool.states()[0].remembered == 2


async def test_the_same_content_under_another_name_is_asked_again() -> None:
    scanner = TameScanner()
    async with pool_of(tame(scan="parts"), scanners=[scanner]) as pool:
        for name in ("a.txt", "a.exe"):
            await pool.ask(MemoryBlob(b"x", parts=(MemoryPart(b"same", name),)), FACTS, ("plug",))
    assert len(scanner.seen) == 2


async def test_memory_is_bounded_and_has_an_end() -> None:
    scanner = TameScanner()
    async with pool_of(tame(cache_entries=2, cache_seconds=0.2), scanners=[scanner]) as pool:
        await until(lambda: scanner.probes)
        for body in (b"1", b"2", b"3", b"2", b"3"):
            await pool.ask(mail(body), FACTS, ("plug",))
        assert len(scanner.seen) == 3
        await pool.ask(mail(b"1"), FACTS, ("plug",))
        assert len(scanner.seen) == 4, "the least used went"
        await asyncio.sleep(0.25)
        await pool.ask(mail(b"1"), FACTS, ("plug",))
        assert len(scanner.seen) == 5, "too old"


async def test_errors_are_not_remembered_and_memory_answers_while_the_scanner_is_out() -> None:
    scanner = TameScanner()
    async with pool_of(tame(failures=1, retry_seconds=60, retry_max_seconds=60), scanners=[scanner]) as pool:
        await until(lambda: scanner.probes)
        await pool.ask(mail(b"known"), FACTS, ("plug",))
        scanner.fault = ScannerFault("gone")
        await pool.ask(mail(b"new"), FACTS, ("plug",))
        assert pool.states()[0].state is State.OPEN
        assert (await pool.ask(mail(b"known"), FACTS, ("plug",)))[0].outcome == "clean"
        assert (await pool.ask(mail(b"new"), FACTS, ("plug",)))[0].outcome == "error"


async def test_an_answer_that_depends_on_the_envelope_is_not_remembered() -> None:
    scanner = TameScanner()
    scanner.by_content = False
    async with pool_of(tame(), scanners=[scanner]) as pool:
        for _ in range(2):
            await pool.ask(mail(), FACTS, ("plug",))
    assert len(scanner.seen) == 2


def _by_content(**said: ScanAnswer | Exception) -> TameScanner:
    async def reply(content: PartBlob) -> ScanAnswer:
        found = said[content.name]
        if isinstance(found, Exception):
            raise found
        return found

    scanner = TameScanner(reply)
    scanner.by_parts = True
    return scanner


CLEAN, BAD, ODD = ScanAnswer("", "clean"), ScanAnswer("", "infected", "Eicar"), ScanAnswer("", "suspicious", "Odd", 3.0)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"a": CLEAN, "b": CLEAN}, ["clean"]),
        ({"a": CLEAN, "b": BAD}, ["infected"]),
        ({"a": ODD, "b": CLEAN}, ["suspicious"]),
        ({"a": CLEAN, "b": ScannerFault("x")}, ["error"]),
        ({"a": ODD, "b": ScannerFault("x")}, ["suspicious", "error"]),
        ({"a": ScannerFault("x"), "b": BAD}, ["infected", "error"]),
    ],
    ids=repr,
)
async def test_a_message_gets_the_worst_of_its_parts_and_an_error_is_not_lost(said: dict[str, Any], expected: list[str]) -> None:
    blob = MemoryBlob(b"whole", parts=tuple(MemoryPart(name.encode(), name) for name in said))
    async with pool_of(tame(), scanners=[_by_content(**said)]) as pool:
        answers = await pool.ask(blob, FACTS, ("plug",))
    assert [answer.outcome for answer in answers] == expected
    if "infected" in expected:
        assert answers[0].part == "b"


async def test_many_parts_are_each_seen_once_and_equal_ones_once() -> None:
    scanner = TameScanner()
    scanner.by_parts = True
    parts = tuple(MemoryPart(b"%d" % (n % 40), f"{n % 40}.bin") for n in range(200))
    async with pool_of(tame(cache=False), scanners=[scanner]) as pool:
        await pool.ask(MemoryBlob(b"whole", parts=parts), FACTS, ("plug",))
    assert len(scanner.seen) == 40


async def test_mail_without_attachments_is_not_for_a_scanner_of_attachments() -> None:
    async with pool_of(tame(name="all"), tame(name="files", when="attachments"), scanners=[TameScanner(), TameScanner()]) as pool:
        assert pool.wants(pool.names, attachments=False) == ("all",)
        assert pool.wants(pool.names, attachments=True) == ("all", "files")
        assert pool.wants(("nobody",), attachments=False) == ("nobody",)


async def test_content_that_cannot_be_read_is_an_error() -> None:
    class Broken(MemoryBlob):
        async def chunks(self):  # type: ignore[no-untyped-def]
            raise OSError("the disk is gone")
            yield b""

    async def reads(content: PartBlob) -> ScanAnswer:
        async for _ in content.chunks():
            pass
        return ScanAnswer("", "clean")

    async with pool_of(tame(), scanners=[TameScanner(reads)]) as pool:
        (answer,) = await pool.ask(Broken(b"x"), FACTS, ("plug",))
    assert answer.outcome == "error"


async def test_a_listener_that_fails_keeps_no_other_from_hearing() -> None:
    scanner = TameScanner()
    scanner.fault = ScannerFault("not yet")
    heard: list[str] = []

    def bad(_name: str) -> None:
        raise ValueError("mine")

    async with pool_of(tame(retry_seconds=0.05), scanners=[scanner]) as pool:
        pool.on_back(bad)
        pool.on_back(heard.append)
        await until(lambda: pool.states()[0].state is State.OPEN)
        scanner.fault = None
        await until(lambda: heard == ["plug"])


async def test_closing_lets_the_scanners_go() -> None:
    scanner = TameScanner()
    async with pool_of(tame(), scanners=[scanner]):
        pass
    assert scanner.closed


async def test_an_asker_that_gives_up_leaves_nothing_running() -> None:
    async def forever(_: PartBlob) -> ScanAnswer:
        await asyncio.sleep(60)
        return ScanAnswer("", "clean")

    async with pool_of(tame(), scanners=[TameScanner(forever)]) as pool:
        asking = asyncio.create_task(pool.ask(mail(), FACTS, ("plug",)))
        await until(lambda: pool.states()[0].running)
        asking.cancel()
        await until(lambda: not pool.states()[0].running)
