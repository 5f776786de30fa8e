"""YARA-X in its own process: outcomes, rules that change or are faulty, rules that never end, and a process that is killed."""

import asyncio
from pathlib import Path

import pytest

pytest.importorskip("yara_x")

from gatepost.scan.scanners.blob import MemoryBlob, MemoryPart
from gatepost.scan.scanners.breaker import State
from gatepost.scan.scanners.plugin import Outcome
from gatepost.scan.scanners.registry import ScannersError, make_scanners
from gatepost.scan.scanners.yara import make
from support.scanners import FACTS, pool_of, table, until

RULES = """
rule Found { strings: $a = "needle" condition: $a }
rule Odd : suspicious { meta: score = 3 strings: $a = "odd" condition: $a }
rule Endless { strings: $a = "endless" condition: $a and for all i in (0..100000000000) : (i >= 0) }
"""


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    (tmp_path / "first.yar").write_text(RULES)
    return tmp_path


def part(data: bytes, name: str = "a.bin") -> MemoryBlob:
    return MemoryBlob(b"whole", parts=(MemoryPart(data, name),))


async def test_rules_find_and_a_tag_makes_it_suspicious(rules: Path) -> None:
    async with pool_of(table("yara", str(rules))) as pool:
        said = [(await pool.ask(part(data), FACTS, ("yara",)))[0] for data in (b"hay", b"a needle", b"odd", b"odd needle")]
    assert [(answer.outcome, answer.name, answer.score) for answer in said] == [
        ("clean", "", 0.0),
        ("infected", "Found", 0.0),
        ("suspicious", "Odd", 3.0),
        ("infected", "Found Odd", 3.0),
    ]
    assert said[0].signatures.startswith("yara ")


async def test_changed_rules_are_used_and_faulty_ones_leave_the_old_in_force(rules: Path) -> None:
    async with pool_of(table("yara", str(rules), probe_seconds=0.05)) as pool:
        assert (await pool.ask(part(b"brand new"), FACTS, ("yara",)))[0].outcome == "clean"
        before = pool.states()[0].signatures
        (rules / "second.yara").write_text('rule New { strings: $a = "new" condition: $a }')
        await until(lambda: pool.states()[0].signatures != before)
        assert (await pool.ask(part(b"brand new"), FACTS, ("yara",)))[0].name == "New"
        (rules / "second.yara").write_text("rule New {")
        await asyncio.sleep(0.2)
        assert (await pool.ask(part(b"new as well"), FACTS, ("yara",)))[0].name == "New"
        assert pool.states()[0].state is State.CLOSED


async def test_rules_that_never_end_are_stopped_and_are_no_outage(rules: Path) -> None:
    async with pool_of(table("yara", str(rules), timeout_seconds=2, failures=1)) as pool:
        (answer,) = await pool.ask(part(b"endless"), FACTS, ("yara",))
        assert (answer.outcome, answer.outage, answer.name) == ("error", False, "too much work for the rules")
        assert (await pool.ask(part(b"needle"), FACTS, ("yara",)))[0].outcome == "infected"


async def test_the_loop_runs_on_while_rules_work(rules: Path) -> None:
    async with pool_of(table("yara", str(rules), timeout_seconds=2)) as pool:
        asking = asyncio.create_task(pool.ask(part(b"endless"), FACTS, ("yara",)))
        turns = 0
        while not asking.done():
            await asyncio.sleep(0.01)
            turns += 1
        assert turns > 50


async def test_a_process_that_dies_costs_one_answer(rules: Path) -> None:
    settings = table("yara", str(rules))
    scanner = make(settings)
    async with pool_of(settings, scanners=[scanner]) as pool:
        await pool.ask(part(b"hay"), FACTS, ("yara",))
        asking = asyncio.create_task(pool.ask(part(b"endless"), FACTS, ("yara",)))
        await until(lambda: pool.states()[0].running)
        await asyncio.sleep(0.1)
        killed = scanner.running
        assert killed
        for process in killed:
            process.kill()
        (answer,) = await asking
        assert (answer.outcome, answer.outage) == (Outcome.ERROR, True)
        assert (await pool.ask(part(b"needle"), FACTS, ("yara",)))[0].outcome == "infected"


async def test_no_rules_at_all_is_out_of_service(tmp_path: Path) -> None:
    async with pool_of(table("yara", str(tmp_path))) as pool:
        (answer,) = await pool.ask(part(b"hay"), FACTS, ("yara",))
    assert (answer.outcome, answer.outage) == ("error", True)
    assert "no rules" in answer.name


async def test_faults_of_the_settings_are_named_by_their_keys(rules: Path) -> None:
    with pytest.raises(ScannersError) as found:
        make_scanners([table("yara", "/nowhere"), table("yara", str(rules), options={"processes": 0, "more": 1})])
    first, second, third = found.value.problems
    assert first == "scan.scanners.0.address: must be the directory of the rules (got '/nowhere')"
    assert second.startswith("scan.scanners.1.options.processes: ")
    assert third == "scan.scanners.1.options.more: unknown option (got 1)"
