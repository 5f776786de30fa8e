"""The mapped index of a large rule set, with real files and real builders: it decides as the rules in memory do, follows each change, and
whatever becomes of the file, mail goes on.

The bound from which on there is a file is lowered here, so that a few rules are a large set.
"""

import os
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gatepost.directory import Directory, InvalidValue, live
from gatepost.directory.mapped import MappedRules
from gatepost.native import RuleIndex
from gatepost.routing.decide import decide
from gatepost.routing.model import (
    AddressHandler,
    DomainRule,
    HandlerKind,
    HandlerOptions,
    Mailbox,
    Question,
    RuleKind,
    RuleSet,
    RuleSettings,
)

FORWARD, DISCARD, REJECT = HandlerKind.FORWARD, HandlerKind.DISCARD, HandlerKind.REJECT
PATTERNS = ["alice", "bob", "al*", "a*", "*ce", "*-x", "/b.b/", "/a.+/", "*", "alice+y"]
LOCALS = ["alice", "bob", "al", "a", "face", "bib", "nobody", "alice+y", "alice+z", "bob-x", "POSTMASTER", "user1", "é"]
DOMAINS = ["d0.test", "d1.test", "sub.d1.test", "alias.test", "mx.test", "none.example", "held.test"]


@pytest.fixture(autouse=True)
def small_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MAX_CHANGES", 5)


@pytest.fixture
def large(path: Path) -> Iterator[Directory]:
    """d0.test and d1.test with handlers of each kind of pattern, and users."""
    made = Directory(path, migrate=True)
    made.put_rule(DomainRule("d0.test", RuleKind.HOSTED), create=True, author="set-up")
    made.put_rule(
        DomainRule("d1.test", RuleKind.HOSTED, handlers=tuple(_handler(one) for one in PATTERNS[:8])), create=True, author="set-up"
    )
    made.put_rule(DomainRule("*.d1.test", RuleKind.REJECT, text="no"), create=True, author="set-up")
    made.put_rule(DomainRule("alias.test", RuleKind.ALIAS, settings=RuleSettings(alias_of="d1.test")), create=True, author="set-up")
    made.put_rule(DomainRule("mx.test", RuleKind.MX, accept_untrusted=True), create=True, author="set-up")
    made.put_rule(DomainRule("held.test", RuleKind.HOLD), create=True, author="set-up")
    for address in ("alice@d0.test", "user1@d0.test", "user1@d1.test"):
        made.add_user(address, None, author="set-up")
    made.close()
    for left in path.parent.glob("rules.*"):
        left.unlink()
    opened = Directory(path, migrate=True)
    yield opened
    opened.close()


def _handler(pattern: str, number: int = 0) -> AddressHandler:
    kind = (DISCARD, REJECT, FORWARD)[number % 3]
    options = HandlerOptions(size_limit=1000 + number) if number % 4 == 3 else HandlerOptions()
    return AddressHandler(pattern, kind, (f"n{number}@far.example",) if kind is FORWARD else (), "", "", options)


def index_of(path: Path) -> Path:
    return path.with_name("rules.index")


def plain(rules: RuleSet, path: Path) -> RuleSet:
    """The same rules in memory alone."""
    directory = Directory(path)
    with directory._database.read() as connection:
        found, mailboxes = live._in_memory(connection).tables()
    directory.close()
    return RuleSet(rules.version, found, mailboxes, srs_key=rules.srs_key)


def same_decisions(rules: RuleSet, path: Path) -> None:
    """Every answer, with its trace, is that of the rules in memory."""
    other = plain(rules, path)
    for local in LOCALS:
        for domain in DOMAINS:
            for trusted in (True, False):
                question = Question("s@far.example", f"{local}@{domain}", trusted)
                assert decide(rules, question) == decide(other, question), question
    assert decide(rules, Question("", "postmaster", False)) == decide(other, Question("", "postmaster", False))
    assert dict(rules.rules) == dict(other.rules)
    assert dict(rules.mailboxes) == dict(other.mailboxes)
    assert (len(rules.rules), len(rules.mailboxes)) == (len(other.rules), len(other.mailboxes))


def test_a_large_rule_set_is_mapped_and_decides_as_one_in_memory(large: Directory, path: Path) -> None:
    rules = large.snapshot()
    assert isinstance(rules.rules, MappedRules)
    same_decisions(rules, path)


def _change(directory: Directory, drawn: random.Random, number: int) -> None:
    """One random change; what is refused is none."""
    domain, pattern = drawn.choice(["d0.test", "d1.test"]), drawn.choice(PATTERNS)
    known = {one.pattern for one in directory.list_handlers(domain)[0]}
    match drawn.randrange(7):
        case 0 | 1 | 2:
            directory.put_handler(domain, _handler(pattern, number), create=pattern not in known, author="x")
        case 3 if pattern in known:
            directory.delete_handler(domain, pattern, author="x")
        case 4:
            rule = DomainRule(f"new{number}.test", RuleKind.HOSTED, handlers=(_handler(pattern, number),))
            directory.put_rule(rule, create=True, author="x")
        case 5:
            directory.add_user(f"postmaster{number}@{domain}" if number % 2 else f"a{number}@{domain}", None, author="x")
        case 6:
            user = drawn.choice(directory.list_users())
            directory.set_enabled(user.address, not user.enabled, author="x")


def test_after_any_changes_it_decides_as_the_tables_say(large: Directory, path: Path) -> None:
    drawn, worker = random.Random(5), Directory(path)
    same_decisions(worker.snapshot(), path)
    for number in range(40):
        _change(large, drawn, number)
        if number % 4 == 3:
            if number % 12 == 11:
                large.build_index()
            same_decisions(worker.snapshot(), path)
    large.add_user("postmaster@d1.test", None, author="x")
    large.put_rule(DomainRule("d1.test", RuleKind.HOSTED, handlers=(_handler("al*", 1),)), create=False, author="x")
    large.delete_rule("*.d1.test", author="x")
    large.delete_rule("d0.test", author="x", force=True)
    same_decisions(worker.snapshot(), path)
    worker.close()


def test_users_that_go_with_a_rule_are_gone_in_a_worker_too(large: Directory, path: Path) -> None:
    worker = Directory(path)
    assert "alice@d0.test" in worker.snapshot().mailboxes
    large.delete_rule("d0.test", author="x", force=True)
    assert "alice@d0.test" not in worker.snapshot().mailboxes
    worker.close()


def test_a_restart_maps_the_file_that_is_there_and_follows_the_log_from_it(large: Directory, path: Path) -> None:
    large.snapshot()
    before = os.stat(index_of(path)).st_ino
    large.put_handler("d0.test", AddressHandler("late", DISCARD), create=True, author="x")
    again = Directory(path)
    assert decide(again.snapshot(), Question("", "late@d0.test", False)).reply is None
    assert os.stat(index_of(path)).st_ino == before
    again.close()


def test_a_small_rule_set_has_no_file(path: Path, directory: Directory) -> None:
    directory.put_rule(DomainRule("a.test", RuleKind.HOSTED), create=True, author="x")
    assert directory.snapshot().rules.keys() == {"a.test"}
    assert not index_of(path).exists()


def test_the_version_a_message_was_taken_under_stays_as_it_was(large: Directory, path: Path) -> None:
    before = large.snapshot()
    large.put_handler("d0.test", AddressHandler("late", DISCARD), create=True, author="x")
    large.build_index()
    after = large.snapshot()
    refused, taken = (decide(rules, Question("", "late@d0.test", False)).reply for rules in (before, after))
    assert (refused is not None, taken) == (True, None)


def test_a_new_file_takes_the_place_of_changes_in_memory(large: Directory, path: Path) -> None:
    worker = Directory(path)
    worker.snapshot()
    for number in range(8):
        large.put_handler("d0.test", AddressHandler(f"h{number}", DISCARD), create=True, author="x")
    large.snapshot()
    assert large.index_is_due()
    assert worker.snapshot().version == large.snapshot().version
    large.build_index()
    assert (worker.has_newer_index(), large.has_newer_index()) == (True, True)
    same_decisions(worker.snapshot(), path)
    assert not worker.index_is_due()
    worker.close()


def _cut(octets: bytes) -> bytes:
    return octets[: len(octets) // 2]


def _bent(octets: bytes) -> bytes:
    return octets[:-3] + bytes([octets[-3] ^ 1]) + octets[-2:]


def _newer(octets: bytes) -> bytes:
    return octets[:8] + b"\x63" + octets[9:]


@pytest.mark.parametrize("spoil", [_cut, _bent, _newer, lambda _: b"", lambda _: b"something else"])
def test_a_file_that_is_torn_damaged_or_newer_is_built_anew(large: Directory, path: Path, spoil) -> None:
    large.snapshot()
    whole = index_of(path).read_bytes()
    index_of(path).unlink()
    index_of(path).write_bytes(spoil(whole))
    again = Directory(path)
    with capture_logs() as told:
        same_decisions(again.snapshot(), path)
    assert any("index of the rules is not used" in one["event"] for one in told)
    assert RuleIndex(str(index_of(path))).version == again.snapshot().version
    again.close()


def test_the_file_of_another_directory_is_built_anew(large: Directory, path: Path, tmp_path: Path) -> None:
    large.snapshot()
    (tmp_path / "other").mkdir()
    other = Directory(tmp_path / "other" / "directory.db", migrate=True)
    for number in range(9):
        other.put_rule(DomainRule(f"o{number}.test", RuleKind.HOSTED), create=True, author="x")
    other.snapshot()
    index_of(path).write_bytes(index_of(tmp_path / "other" / "directory.db").read_bytes())
    again = Directory(path)
    same_decisions(again.snapshot(), path)
    again.close()
    other.close()


def test_a_file_older_than_the_log_reaches_back_is_built_anew(large: Directory, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large.snapshot()
    monkeypatch.setattr("gatepost.directory.versions.KEEP", 3)
    for number in range(5):
        large.put_handler("d0.test", AddressHandler(f"h{number}", DISCARD), create=True, author="x")
        large.snapshot()
    again = Directory(path)
    same_decisions(again.snapshot(), path)
    assert RuleIndex(str(index_of(path))).version == again.snapshot().version
    again.close()


@pytest.fixture
def no_room() -> Iterator[None]:
    """No process may write a file longer than 64 octets: what a full disk does, without one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_where_no_file_can_be_written_the_rules_are_read_into_memory_and_it_is_said(large: Directory, path: Path, no_room: None) -> None:
    with capture_logs() as told:
        rules = large.snapshot()
    assert decide(rules, Question("", "alice@d0.test", False)).reply is None
    assert any("cannot be built" in one["event"] for one in told)
    assert sorted(one.name for one in path.parent.glob("rules.*")) == ["rules.lock"]


def test_where_no_new_file_can_be_written_the_old_one_and_the_changes_go_on(large: Directory, path: Path, no_room: None) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    large.snapshot()
    large.put_handler("d0.test", AddressHandler("late", DISCARD), create=True, author="x")
    before = index_of(path).read_bytes()
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with pytest.raises(live.DirectoryError, match="building the index of the rules failed"):
        large.build_index()
    assert index_of(path).read_bytes() == before
    assert decide(large.snapshot(), Question("", "late@d0.test", False)).reply is None


def test_a_builder_that_was_killed_leaves_nothing_in_the_way(large: Directory, path: Path) -> None:
    command = [sys.executable, "-m", "gatepost.native.build_rules", str(path), str(index_of(path))]
    with subprocess.Popen(command) as builder:
        builder.send_signal(signal.SIGKILL)
        assert builder.wait(30) == -signal.SIGKILL
    path.with_name("rules.tmp-1").write_bytes(b"half of it")
    same_decisions(large.snapshot(), path)
    assert sorted(one.name for one in path.parent.glob("rules.*")) == ["rules.index", "rules.lock"]


def test_two_processes_that_find_no_file_share_the_one_that_is_built_first(large: Directory, path: Path) -> None:
    program = (
        "import sys, pathlib; from gatepost.directory import Directory, live; live.MAX_CHANGES = 5\n"
        "rules = Directory(pathlib.Path(sys.argv[1])).snapshot(); print(len(rules.rules), rules.rules._file.index.version)"
    )
    started = [subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    told = [process.communicate(timeout=60)[0].split() for process in started]
    assert told == [["6", str(large.snapshot().version)]] * 2
    assert sorted(one.name for one in path.parent.glob("rules.*")) == ["rules.index", "rules.lock"]


def test_checks_of_a_change_see_the_file_and_the_change_itself(large: Directory) -> None:
    large.snapshot()
    large.put_handler("d1.test", AddressHandler("y", FORWARD, ("z@far.example",)), create=True, author="x")
    large.put_handler("d0.test", AddressHandler("x", FORWARD, ("y@d1.test",)), create=True, author="x")
    with pytest.raises(InvalidValue, match="loop"):
        large.put_handler("d1.test", AddressHandler("y", FORWARD, ("x@d0.test",)), create=False, author="x")
    with pytest.raises(InvalidValue, match="is not a user"):
        large.put_handler("d1.test", AddressHandler("m", HandlerKind.MAILBOX, ("nobody@d0.test",)), create=True, author="x")
    large.put_handler("d1.test", AddressHandler("m", HandlerKind.MAILBOX, ("alice@d0.test",)), create=True, author="x")


def test_a_mailbox_is_found_by_its_address_in_any_version(large: Directory) -> None:
    rules = large.snapshot()
    found = rules.mailboxes["alice@d0.test"]
    assert isinstance(found, Mailbox)
    assert rules.mailboxes.get("nobody@d0.test") is None
    with pytest.raises(KeyError):
        rules.mailboxes["nobody@d0.test"]
