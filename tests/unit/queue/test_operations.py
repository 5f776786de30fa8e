"""The list of operations on disk: what survives a restart, what is given up, what a damaged file costs."""

from pathlib import Path

import pytest

from gatepost.message.ids import format_message_id
from gatepost.native import new_message_id
from gatepost.queue.operations import MAX_OPERATIONS, TOO_MANY, TOO_OLD, Operation, OperationLog

NOW = 1_700_000_000_000_000
LATER = NOW + 900_000_000


def operation(**fields) -> Operation:
    given = {"kind": "hold", "actor": "local:me", "started": NOW, "matched": 1, "until": LATER, **fields}
    return Operation(format_message_id(new_message_id()), **given)


def test_an_operation_is_there_after_a_restart_and_one_that_was_running_was_interrupted(tmp_path: Path):
    done, cut = operation(), operation()
    kept = OperationLog(tmp_path / "operations", lambda: NOW)
    kept.begin(done, b"a" * 16)
    kept.begin(cut, b"b" * 16)
    kept.update(Operation(**{**fields(done), "state": "done", "changed": 1}))
    assert kept.get(cut.operation_id).why_not(NOW) == "it is still being carried out"
    again = OperationLog(tmp_path / "operations", lambda: NOW)
    assert again.get(done.operation_id).changed == 1
    assert again.get(cut.operation_id).state == "interrupted"
    assert [again.ids(one) for one in (done, cut)] == [b"a" * 16, b"b" * 16]
    assert again.get(cut.operation_id).why_not(NOW) == ""
    assert again.get(cut.operation_id).why_not(LATER) == TOO_OLD


def fields(one: Operation) -> dict:
    return {name: getattr(one, name) for name in one.__slots__}


def test_ids_go_when_the_time_is_over_and_the_operation_stays_in_the_list(tmp_path: Path):
    clock = [NOW]
    kept = OperationLog(tmp_path / "operations", lambda: clock[0])
    one = operation()
    kept.begin(one, b"a" * 16)
    assert kept.expire() == LATER
    clock[0] = LATER
    assert kept.expire() == 0
    assert [file.suffix for file in (tmp_path / "operations").iterdir()] == [".json"]
    assert kept.newest_first() == [one]
    assert OperationLog(tmp_path / "operations", lambda: clock[0]).get(one.operation_id) is not None


def test_the_number_of_operations_and_of_their_ids_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    kept = OperationLog(tmp_path / "operations", lambda: NOW)
    monkeypatch.setattr("gatepost.queue.operations.MAX_ID_OCTETS", 64)
    monkeypatch.setattr("gatepost.queue.operations.MAX_OPERATIONS", 5)
    made = [operation(started=NOW + n) for n in range(7)]
    for one in made:
        kept.begin(one, b"a" * 16)
    assert [one.operation_id for one in kept.newest_first()] == [one.operation_id for one in made[:1:-1]]
    assert kept.get(made[2].operation_id).why_not(NOW) == TOO_MANY
    assert kept.get(made[3].operation_id).why_not(NOW) == "it is still being carried out"
    assert len(list((tmp_path / "operations").glob("*.ids"))) == 4
    assert MAX_OPERATIONS >= 5


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"format":0}', '{"format":1,"operation_id":5}', "\x00" * 9000])
def test_a_file_that_cannot_be_read_costs_that_operation_only(tmp_path: Path, text: str):
    kept = OperationLog(tmp_path / "operations", lambda: NOW)
    one = operation()
    kept.begin(one, b"a" * 16)
    bad = tmp_path / "operations" / "0193ffff-0000-7000-8000-000000000000.json"
    bad.write_text(text)
    (tmp_path / "operations" / "left.ids").write_bytes(b"x")
    (tmp_path / "operations" / "left.new").write_bytes(b"x")
    again = OperationLog(tmp_path / "operations", lambda: NOW)
    assert [known.operation_id for known in again.newest_first()] == [one.operation_id]
    assert bad.exists()
    assert not list((tmp_path / "operations").glob("left.*"))
