"""Domain rules and handlers in the directory: what is stored, what is refused, etags, versions."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gatepost.directory import AlreadyExists, ConflictInUse, Directory, DirectoryError, EtagMismatch, InvalidValue, NotFound
from gatepost.routing.decide import decide
from gatepost.routing.model import AddressHandler, DomainRule, HandlerKind, Question, RuleKind, TlsPolicy

GATEWAY = DomainRule("partner.test", RuleKind.GATEWAY, host="mx.partner.test", port=2525, tls=TlsPolicy.VERIFIED)


def forward(pattern: str, *targets: str) -> AddressHandler:
    return AddressHandler(pattern, HandlerKind.FORWARD, targets)


def test_a_rule_comes_back_as_it_was_put(directory: Directory) -> None:
    full = replace(GATEWAY, implicit_tls=True, username="me", password_ref="gateway-1", handlers=(forward("x", "y@far.test"),))
    stored = directory.put_rule(full, create=True, author="ann")
    assert stored.rule == full
    assert directory.get_rule("partner.test") == stored
    assert directory.list_rules() == [stored]
    assert directory.snapshot().rules == {"partner.test": full}


@pytest.mark.parametrize(
    ("written", "stored"),
    [
        ("Example.ORG", "example.org"),
        ("example.org.", "example.org"),
        ("*.Example.org", "*.example.org"),
        ("*", "*"),
        ("Bücher.test", "xn--bcher-kva.test"),
    ],
)
def test_domains_are_stored_as_they_are_compared(directory: Directory, written: str, stored: str) -> None:
    assert directory.put_rule(DomainRule(written, RuleKind.MX), create=True, author="a").rule.domain == stored
    assert directory.get_rule(written).rule.domain == stored
    with pytest.raises(AlreadyExists):
        directory.put_rule(DomainRule(written.upper(), RuleKind.MX), create=True, author="a")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"domain": ""}, "domain"),
        ({"domain": "a..b"}, "domain"),
        ({"domain": "[127.0.0.1]"}, "domain"),
        ({"domain": "*x.test"}, "domain"),
        ({"domain": "a.*.test"}, "domain"),
        ({"domain": "user@a.test"}, "domain"),
        ({"domain": "a" * 300 + ".test"}, "domain"),
        ({"kind": "nothing"}, "kind"),
        ({"tls": "sometimes"}, "tls"),
        ({"host": ""}, "host"),
        ({"host": "a b"}, "host"),
        ({"host": "[::1]"}, "host"),
        ({"host": "300.1.1.1"}, "host"),
        ({"host": "h:25"}, "host"),
        ({"kind": RuleKind.MX}, "host"),
        ({"port": 0}, "port"),
        ({"port": 65536}, "port"),
        ({"implicit_tls": True, "tls": TlsPolicy.NONE}, "implicit_tls"),
        ({"username": "me"}, "password"),
        ({"password_ref": "x"}, "username"),
        ({"username": "me", "password_ref": "../../etc/passwd"}, "password_ref"),
        ({"username": "m\ne", "password_ref": "x"}, "username"),
        ({"text": "a\r\n250 ok"}, "text"),
        ({"text": "x" * 500}, "text"),
        ({"domain": "*", "accept_untrusted": True}, "accept_untrusted"),
        ({"kind": RuleKind.REJECT, "host": "", "accept_untrusted": True}, "accept_untrusted"),
        ({"handlers": (forward("a", "x@far.test"), forward("A", "y@far.test"))}, "handlers"),
        ({"handlers": (forward("a", "x@far.test"), forward("b"))}, "handlers[1].targets"),
        ({"handlers": (forward("a b", "x@far.test"),)}, "handlers[0].pattern"),
    ],
)
def test_a_faulty_rule_is_refused_by_field_and_nothing_is_stored(directory: Directory, change: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        directory.put_rule(replace(GATEWAY, **change), create=True, author="a")
    assert caught.value.field == field
    assert caught.value.problem
    assert directory.list_rules() == []
    assert directory.rule_versions() == []


@pytest.mark.parametrize(
    ("handler", "field"),
    [
        (forward(""), "pattern"),
        (forward("a*b", "x@far.test"), "pattern"),
        (forward("**", "x@far.test"), "pattern"),
        (forward("a@b", "x@far.test"), "pattern"),
        (forward("x" * 65, "x@far.test"), "pattern"),
        (forward("a", "not an address"), "targets"),
        (forward("a", "x@[127.0.0.1]"), "targets"),
        (forward("a", *(f"x{n}@far.test" for n in range(101))), "targets"),
        (forward("a", "nobody@example.test"), "targets"),
        (AddressHandler("a", HandlerKind.MAILBOX, ("x@far.test", "y@far.test")), "targets"),
        (AddressHandler("a", HandlerKind.MAILBOX, ("nobody@example.test",)), "targets"),
        (AddressHandler("a", HandlerKind.REJECT, ("x@far.test",)), "targets"),
        (AddressHandler("a", HandlerKind.DISCARD, (), "text"), "text"),
        (AddressHandler("a", HandlerKind.REJECT, (), "two\nlines"), "text"),
        (forward("a", "a@example.test"), "targets"),
        (forward("a", "a+detail@example.test"), "targets"),
        (forward("*", "b@example.test"), "targets"),
        (forward("a*", "x@far.test", "ab@example.test"), "targets"),
    ],
)
def test_a_faulty_handler_is_refused_by_field(hosting: Directory, handler: AddressHandler, field: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        hosting.put_handler("example.test", handler, create=True, author="a")
    assert caught.value.field == field
    assert hosting.list_handlers("example.test")[0] == []


def test_a_circle_of_forwards_is_refused_with_the_way_it_goes(hosting: Directory) -> None:
    hosting.put_handler("example.test", forward("c", "x@far.test"), create=True, author="a")
    hosting.put_handler("example.test", forward("b", "c@example.test"), create=True, author="a")
    with pytest.raises(InvalidValue, match=r"b@example\.test → c@example\.test → b@example\.test"):
        hosting.put_handler("example.test", forward("c", "b@example.test"), create=False, author="a")
    assert hosting.get_handler("example.test", "c").handler.targets == ("x@far.test",)


def test_a_circle_over_two_domains_in_one_rule_is_refused(hosting: Directory) -> None:
    hosting.put_handler("example.test", forward("a", "a@other.test"), create=True, author="a")
    with pytest.raises(InvalidValue) as caught:
        hosting.put_rule(DomainRule("other.test", RuleKind.HOSTED, handlers=(forward("*", "a@example.test"),)), create=True, author="a")
    assert caught.value.field == "handlers[0].targets"


def test_handlers_are_added_changed_and_removed(hosting: Directory) -> None:
    added = hosting.put_handler("Example.test", forward("Sales", "X@Far.test", "x@far.test"), create=True, author="a")
    assert added.handler == forward("sales", "X@far.test", "x@far.test")
    with pytest.raises(AlreadyExists):
        hosting.put_handler("example.test", forward("SALES", "y@far.test"), create=True, author="a")
    changed = hosting.put_handler("example.test", forward("sales", "y@far.test"), etag=added.etag, create=False, author="a")
    assert hosting.get_handler("example.test", "Sales") == changed
    assert hosting.delete_handler("example.test", "sales", etag=changed.etag, author="a") == hosting.get_rule("example.test").etag
    for call in (lambda: hosting.delete_handler("example.test", "sales", author="a"), lambda: hosting.get_handler("example.test", "sales")):
        with pytest.raises(NotFound):
            call()
    with pytest.raises(NotFound):
        hosting.put_handler("example.test", forward("sales", "y@far.test"), create=False, author="a")
    with pytest.raises(NotFound):
        hosting.put_handler("far.test", forward("sales", "y@far.test"), create=True, author="a")


def test_replacing_a_rule_replaces_its_handlers(directory: Directory) -> None:
    directory.put_rule(replace(GATEWAY, handlers=(forward("a", "x@far.test"), forward("b", "x@far.test"))), create=True, author="a")
    directory.put_rule(replace(GATEWAY, handlers=(forward("c", "x@far.test"),)), create=False, author="a")
    assert [each.pattern for each in directory.list_handlers("partner.test")[0]] == ["c"]


def test_a_change_of_kind_alone_is_enough(directory: Directory) -> None:
    full = replace(GATEWAY, username="me", password_ref="gateway-1", accept_untrusted=True)
    directory.put_rule(full, create=True, author="a")
    assert directory.put_rule(replace(full, kind=RuleKind.HOLD), create=False, author="a").rule.host == full.host
    assert directory.put_rule(full, create=False, author="a").rule == full
    for kind in (RuleKind.MX, RuleKind.HOSTED, RuleKind.REJECT, RuleKind.DISCARD):
        stored = directory.put_rule(replace(full, kind=kind), create=False, author="a").rule
        assert (stored.kind, stored.host, stored.username, stored.password_ref) == (kind, "", "", "")
        assert stored.accept_untrusted is (kind is RuleKind.MX)


def test_a_change_with_an_old_etag_is_refused_and_tells_the_new_one(directory: Directory) -> None:
    first = directory.put_rule(GATEWAY, create=True, author="a")
    second = directory.put_rule(replace(GATEWAY, port=26), etag=first.etag, create=False, author="a")
    assert first.etag != second.etag
    calls: list[Any] = [
        lambda: directory.put_rule(replace(GATEWAY, port=27), etag=first.etag, create=False, author="a"),
        lambda: directory.delete_rule("partner.test", etag=first.etag, author="a"),
        lambda: directory.put_handler("partner.test", forward("a", "x@far.test"), etag=first.etag, create=True, author="a"),
        lambda: directory.delete_handler("partner.test", "a", etag=first.etag, author="a"),
    ]
    for call in calls:
        with pytest.raises(EtagMismatch) as caught:
            call()
        assert caught.value.current == second.etag
    assert directory.get_rule("partner.test") == second


def test_a_handler_changes_the_etag_of_its_rule(directory: Directory) -> None:
    before = directory.put_rule(GATEWAY, create=True, author="a")
    after = directory.put_handler("partner.test", forward("a", "x@far.test"), etag=before.etag, create=True, author="a")
    assert directory.get_rule("partner.test").etag == after.etag != before.etag


def test_an_etag_of_a_rule_made_again_is_new(directory: Directory) -> None:
    first = directory.put_rule(GATEWAY, create=True, author="a")
    directory.delete_rule("partner.test", author="a")
    again = directory.put_rule(GATEWAY, create=True, author="a")
    assert again.rule == first.rule
    assert again.etag != first.etag


def test_what_is_not_there_is_not_found(directory: Directory) -> None:
    for call in (
        lambda: directory.get_rule("far.test"),
        lambda: directory.delete_rule("far.test", author="a"),
        lambda: directory.list_handlers("far.test"),
        lambda: directory.put_rule(GATEWAY, create=False, author="a"),
    ):
        with pytest.raises(NotFound):
            call()


def test_a_hosted_domain_with_users_is_removed_only_by_force_and_its_users_with_it(hosting: Directory) -> None:
    hosting.add_user("alice@example.test", None, author="a")
    with pytest.raises(ConflictInUse, match="1 user"):
        hosting.delete_rule("example.test", author="a")
    assert hosting.get_user("alice@example.test")
    hosting.delete_rule("example.test", author="a", force=True)
    assert hosting.list_users() == []


def test_users_that_another_hosted_rule_covers_stay(hosting: Directory) -> None:
    hosting.put_rule(DomainRule("*.test", RuleKind.HOSTED), create=True, author="a")
    hosting.add_user("alice@example.test", None, author="a")
    hosting.delete_rule("example.test", author="a")
    assert [user.address for user in hosting.list_users()] == ["alice@example.test"]
    with pytest.raises(ConflictInUse):
        hosting.delete_rule("*.test", author="a")


def test_every_change_makes_a_version_with_its_author(hosting: Directory) -> None:
    before = hosting.snapshot().version
    hosting.add_user("alice@example.test", None, author="ann")
    hosting.put_handler("example.test", forward("x", "y@far.test"), create=True, author="bea")
    hosting.set_enabled("alice@example.test", False, author="cat")
    hosting.remove_user("alice@example.test", author="dan")
    found = hosting.rule_versions()
    assert [entry.version for entry in found] == list(range(before + 4, 0, -1))
    assert [entry.author for entry in found[:4]] == ["dan", "cat", "bea", "ann"]
    assert found[2].comment == "add handler x of example.test"
    assert found[0].created_at >= found[-1].created_at > 1_600_000_000_000_000
    assert hosting.snapshot().version == before + 4


def test_the_last_200_versions_are_kept_and_numbers_go_on(directory: Directory) -> None:
    directory.put_rule(GATEWAY, create=True, author="a")
    for port in range(1, 210):
        directory.put_rule(replace(GATEWAY, port=port), create=False, author="a")
    found = directory.rule_versions()
    assert len(found) == 200
    assert found[0].version == directory.snapshot().version == 210


def test_a_snapshot_does_not_change_and_decides(hosting: Directory) -> None:
    before = hosting.snapshot()
    user = hosting.add_user("alice@example.test", None, author="a")
    after = hosting.snapshot()
    question = Question("", "alice@example.test", False)
    assert decide(before, question).reply is not None
    assert decide(after, question).routes[0].mailbox_id == user.mailbox_id
    assert before.etag != after.etag


def test_data_version_changes_with_every_change_and_for_other_processes_too(hosting: Directory, path: Path) -> None:
    reader = Directory(path)
    seen = {reader.data_version()}
    hosting.add_user("alice@example.test", "correct horse", author="a")
    seen.add(reader.data_version())
    hosting.set_password("alice@example.test", "battery staple", author="a")
    seen.add(reader.data_version())
    hosting.delete_rule("example.test", author="a", force=True)
    seen.add(reader.data_version())
    assert len(seen) == 4
    assert reader.data_version() == hosting.data_version()
    reader.close()


def test_a_reader_cannot_write(hosting: Directory, path: Path) -> None:
    reader = Directory(path)
    with pytest.raises(DirectoryError, match="only the supervisor writes"):
        reader.put_rule(GATEWAY, create=True, author="a")
    reader.close()


def test_many_threads_may_change_and_read_at_once(hosting: Directory, path: Path) -> None:
    reader = Directory(path)
    faults: list[BaseException] = []

    def change(thread: int) -> None:
        try:
            for n in range(5):
                hosting.put_handler("example.test", forward(f"t{thread}-{n}", "x@far.test"), create=True, author="a")
                reader.snapshot()
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=change, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert faults == []
    assert len(reader.list_handlers("example.test")[0]) == 30
    reader.close()


def test_the_key_of_rewritten_return_paths_is_made_once_and_every_process_reads_it(tmp_path: Path) -> None:
    directory = Directory(tmp_path / "directory.db", migrate=True)
    key = directory.snapshot().srs_key
    assert len(key) == 32
    worker = Directory(tmp_path / "directory.db")
    assert worker.snapshot().srs_key == key
    worker.close()
    directory.close()
    again = Directory(tmp_path / "directory.db", migrate=True)
    assert again.snapshot().srs_key == key
    again.close()
    assert (tmp_path / "secrets" / "srs-key").stat().st_mode & 0o777 == 0o600
