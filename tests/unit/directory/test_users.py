"""Users, volumes, tokens and secrets."""

import hashlib
import os
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from gatepost.directory import AlreadyExists, ConflictInUse, Directory, DirectoryError, EtagMismatch, InvalidValue, NotFound
from gatepost.directory.clock import new_mailbox_id, now_us
from gatepost.routing.model import AddressHandler, DomainRule, HandlerKind, RuleKind

PASSWORD = "correct horse"


def test_a_user_is_stored_with_a_mailbox_and_shown_without_credentials(hosting: Directory) -> None:
    user = hosting.add_user("Alice@Example.Test", PASSWORD, author="a")
    assert user.address == "alice@example.test"
    assert len(user.mailbox_id) == 16
    assert user.mailbox_id[6] >> 4 == 7
    assert (user.volume, user.enabled, user.has_password) == ("main", True, True)
    assert hosting.get_user("ALICE@example.test") == user
    assert hosting.list_users() == hosting.list_users("Example.test") == [user]
    assert hosting.snapshot().mailboxes["alice@example.test"].mailbox_id == user.mailbox_id


@pytest.mark.parametrize(
    ("address", "field"),
    [
        ("alice", "address"),
        ("alice@", "address"),
        ("@example.test", "address"),
        ("alice@[127.0.0.1]", "address"),
        ("alice@far.test", "address"),
        ('"a b"@example.test', "address"),
        ("*@example.test", "address"),
        ("a\r\nb@example.test", "address"),
    ],
)
def test_a_user_needs_an_address_in_a_hosted_domain(hosting: Directory, address: str, field: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        hosting.add_user(address, None, author="a")
    assert caught.value.field == field


@pytest.mark.parametrize("password", ["", "short", "x" * 2000, "tab\tin the middle", "nul\0in the middle"])
def test_a_password_that_may_not_be_set_is_refused(hosting: Directory, password: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        hosting.add_user("alice@example.test", password, author="a")
    assert caught.value.field == "password"
    assert password == "" or password not in str(caught.value)
    assert hosting.list_users() == []


def test_a_domain_that_is_routed_but_not_hosted_takes_no_users(hosting: Directory) -> None:
    hosting.put_rule(DomainRule("partner.test", RuleKind.MX), create=True, author="a")
    with pytest.raises(InvalidValue, match="is mx"):
        hosting.add_user("x@partner.test", None, author="a")


def test_a_wildcard_hosted_rule_takes_users_of_subdomains(directory: Directory) -> None:
    directory.put_rule(DomainRule("*.example.test", RuleKind.HOSTED), create=True, author="a")
    assert directory.add_user("x@sub.example.test", None, author="a")


def test_a_user_exists_once(hosting: Directory) -> None:
    hosting.add_user("alice@example.test", None, author="a")
    with pytest.raises(AlreadyExists):
        hosting.add_user("ALICE@example.test", None, author="a")


def test_an_unknown_volume_and_unknown_users_are_not_found(hosting: Directory) -> None:
    calls: list[Any] = [
        lambda: hosting.add_user("alice@example.test", None, "tape", author="a"),
        lambda: hosting.get_user("nobody@example.test"),
        lambda: hosting.set_password("nobody@example.test", PASSWORD, author="a"),
        lambda: hosting.set_enabled("nobody@example.test", True, author="a"),
        lambda: hosting.remove_user("nobody@example.test", author="a"),
        lambda: hosting.get_volume("nowhere"),
        lambda: hosting.remove_volume("nowhere", author="a"),
        lambda: hosting.revoke_token("nobody", author="a"),
        lambda: hosting.secret("nobody"),
    ]
    for call in calls:
        with pytest.raises(NotFound):
            call()


def test_a_removed_user_is_returned_so_that_its_mail_can_be_purged(hosting: Directory) -> None:
    user = hosting.add_user("alice@example.test", PASSWORD, author="a")
    assert hosting.remove_user("alice@example.test", author="a") == user
    again = hosting.add_user("alice@example.test", PASSWORD, author="a")
    assert again.mailbox_id != user.mailbox_id


CHANGES: list[Any] = [
    lambda directory, etag: directory.set_password("alice@example.test", "battery staple", etag=etag, author="a"),
    lambda directory, etag: directory.set_password("alice@example.test", None, etag=etag, author="a"),
    lambda directory, etag: directory.set_enabled("alice@example.test", False, etag=etag, author="a"),
    lambda directory, etag: directory.remove_user("alice@example.test", etag=etag, author="a"),
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_stale_etag_of_a_user_stops_the_change_and_tells_the_current_one(hosting: Directory, change: Any) -> None:
    old = hosting.add_user("alice@example.test", PASSWORD, author="a")
    now = hosting.set_password("alice@example.test", PASSWORD, etag=old.etag, author="b")
    before = hosting.data_version()
    with pytest.raises(EtagMismatch, match=r"alice@example\.test was changed") as caught:
        change(hosting, old.etag)
    assert caught.value.current == now.etag
    assert hosting.get_user("alice@example.test") == now
    assert hosting.data_version() == before
    change(hosting, now.etag)


@pytest.mark.parametrize("change", CHANGES)
def test_no_etag_means_whatever_is_there(hosting: Directory, change: Any) -> None:
    for nothing in (None, ""):
        hosting.add_user("alice@example.test", PASSWORD, author="a")
        change(hosting, nothing)
        if hosting.list_users():
            hosting.remove_user("alice@example.test", author="a")


def test_every_change_of_a_user_changes_its_etag_and_a_look_does_not(hosting: Directory) -> None:
    made = hosting.add_user("alice@example.test", PASSWORD, author="a")
    seen = [made.etag]
    seen.append(hosting.set_enabled("alice@example.test", False, author="a").etag)
    seen.append(hosting.set_password("alice@example.test", PASSWORD, author="a").etag)
    seen.append(hosting.set_password("alice@example.test", None, author="a").etag)
    hosting.remove_user("alice@example.test", author="a")
    seen.append(hosting.add_user("alice@example.test", None, author="a").etag)
    hosting.put_rule(DomainRule("example.test", RuleKind.HOSTED, text="x"), create=False, author="a")
    hosting.add_user("bob@example.test", None, author="a")
    assert [user.etag for user in hosting.list_users()][:1] == [hosting.get_user("alice@example.test").etag] == seen[-1:]
    assert len(set(seen)) == len(seen)


def test_an_etag_needs_the_secret_of_the_installation(hosting: Directory, path: Path) -> None:
    etag = hosting.add_user("alice@example.test", PASSWORD, author="a").etag
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE state SET value = ? WHERE key = 'pepper'", ("00" * 32,))
    assert hosting.get_user("alice@example.test").etag != etag


def test_a_user_that_a_mailbox_handler_names_is_not_removed(hosting: Directory) -> None:
    hosting.add_user("alice@example.test", None, author="a")
    hosting.put_handler("example.test", AddressHandler("info", HandlerKind.MAILBOX, ("alice@example.test",)), create=True, author="a")
    with pytest.raises(ConflictInUse, match="info"):
        hosting.remove_user("alice@example.test", author="a")
    assert hosting.remove_user("alice@example.test", author="a", force=True)


def test_no_password_and_no_secret_is_in_the_file(hosting: Directory, path: Path) -> None:
    hosting.add_user("alice@example.test", PASSWORD, author="a")
    hosting.set_password("alice@example.test", "battery staple", author="a")
    _, secret = hosting.create_token("ci", "viewer", author="a")
    hosting.close()
    data = path.read_bytes()
    for text in (PASSWORD, "battery staple", secret):
        assert text.encode() not in data
        assert hashlib.sha1(text.encode()).digest() not in data
        assert hashlib.sha256(text.encode()).hexdigest().encode() not in data
    assert b"$argon2id$v=19$m=19456,t=2,p=1$" in data
    assert path.stat().st_mode & 0o077 == 0


def test_mailbox_ids_are_uuid7_in_the_order_of_time() -> None:
    first = new_mailbox_id()
    time.sleep(0.002)
    second = new_mailbox_id()
    assert first < second
    assert first[6] >> 4 == 7
    assert first[8] >> 6 == 2


def test_the_main_volume_is_there_from_the_start_and_moves_with_the_data(directory: Directory, path: Path) -> None:
    (main,) = directory.list_volumes()
    assert (main.name, main.path) == ("main", str(path.parent / "volumes" / "main"))
    assert Path(main.path).is_dir()
    directory.close()
    moved = path.parent.parent / f"{path.parent.name}-moved"
    path.parent.rename(moved)
    other = Directory(moved / "directory.db")
    assert other.list_volumes()[0].path == str(moved / "volumes" / "main")
    other.close()


def test_a_volume_is_made_and_named_once(hosting: Directory, tmp_path: Path) -> None:
    made = hosting.add_volume("fast", tmp_path / "fast", author="a")
    assert Path(made.path).is_dir()
    assert [volume.name for volume in hosting.list_volumes()] == ["fast", "main"]
    assert hosting.add_user("alice@example.test", None, "fast", author="a").volume == "fast"
    with pytest.raises(AlreadyExists):
        hosting.add_volume("fast", tmp_path / "other", author="a")


def test_a_volume_without_mailboxes_is_removed_and_its_files_stay(hosting: Directory, tmp_path: Path) -> None:
    made = hosting.add_volume("fast", tmp_path / "fast", author="ann")
    assert hosting.get_volume("fast") == made
    (tmp_path / "fast" / "mail").write_text("kept")
    hosting.add_user("alice@example.test", None, "fast", author="a")
    with pytest.raises(ConflictInUse, match="1 user;"):
        hosting.remove_volume("fast", author="a")
    hosting.remove_user("alice@example.test", author="a")
    hosting.remove_volume("fast", etag=made.etag, author="ann")
    assert [volume.name for volume in hosting.list_volumes()] == ["main"]
    assert (tmp_path / "fast" / "mail").read_text() == "kept"
    assert (hosting.rule_versions()[0].comment, hosting.rule_versions()[0].author) == ("remove volume fast", "ann")
    with pytest.raises(NotFound):
        hosting.add_user("alice@example.test", None, "fast", author="a")


def test_a_volume_added_again_is_another_one(hosting: Directory, tmp_path: Path) -> None:
    old = hosting.add_volume("fast", tmp_path / "fast", author="a")
    hosting.remove_volume("fast", author="a")
    new = hosting.add_volume("fast", tmp_path / "fast", author="a")
    with pytest.raises(EtagMismatch) as caught:
        hosting.remove_volume("fast", etag=old.etag, author="a")
    assert caught.value.current == new.etag == hosting.get_volume("fast").etag


def test_the_main_volume_stays(hosting: Directory) -> None:
    with pytest.raises(ConflictInUse, match="main"):
        hosting.remove_volume("main", author="a")
    assert hosting.list_volumes()


@pytest.mark.parametrize(
    ("name", "place", "field"),
    [
        ("", "/tmp/x", "name"),
        ("A b", "/tmp/x", "name"),
        ("x", "relative", "path"),
        ("x", "/tmp/../etc", "path"),
        ("x", "/dev/null/x", "path"),
        ("x", "/a\0b", "path"),
    ],
)
def test_a_faulty_volume_is_refused_by_field(directory: Directory, name: str, place: str, field: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        directory.add_volume(name, place, author="a")
    assert caught.value.field == field


def test_volumes_do_not_lie_within_each_other(directory: Directory, tmp_path: Path) -> None:
    directory.add_volume("one", tmp_path / "one", author="a")
    for place in (tmp_path / "one", tmp_path / "one" / "two", tmp_path):
        with pytest.raises(InvalidValue, match="within each other"):
            directory.add_volume("two", place, author="a")


def test_a_token_opens_with_its_secret_only_until_it_is_revoked(directory: Directory) -> None:
    token, secret = directory.create_token("ci", "operator", author="ann")
    assert secret.startswith("gp_")
    assert len(secret) > 40
    found = directory.verify_token(secret)
    assert found is not None
    assert (found.name, found.role, found.author) == ("ci", "operator", "ann")
    assert token.created_at <= now_us()
    for wrong in ("", secret[:-1], secret + "x", "gp_", "\ud800"):
        assert directory.verify_token(wrong) is None
    directory.revoke_token("ci", author="ann")
    assert directory.verify_token(secret) is None
    assert directory.list_tokens() == []


def test_the_use_of_a_token_is_noted_but_not_each_time(directory: Directory) -> None:
    _, secret = directory.create_token("ci", "viewer", author="a")
    directory.verify_token(secret)
    (first,) = directory.list_tokens()
    directory.verify_token(secret)
    assert directory.list_tokens() == [first]
    assert first.last_used_at >= first.created_at


def test_a_token_may_expire(directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    _, secret = directory.create_token("short", "viewer", author="a", expires_at=now_us() + 3_600_000_000)
    assert directory.verify_token(secret)
    later = now_us() + 3_600_000_001
    monkeypatch.setattr("gatepost.directory.tokens.now_us", lambda: later)
    assert directory.verify_token(secret) is None
    assert [token.name for token in directory.list_tokens()] == ["short"]


def test_faulty_tokens_are_refused(directory: Directory) -> None:
    calls: list[Any] = [
        lambda: directory.create_token("a b", "viewer", author="a"),
        lambda: directory.create_token("ci", "root", author="a"),
        lambda: directory.create_token("ci", "viewer", author="a", expires_at=1),
    ]
    for call in calls:
        with pytest.raises(InvalidValue):
            call()
    directory.create_token("ci", "viewer", author="a")
    with pytest.raises(AlreadyExists):
        directory.create_token("ci", "admin", author="a")


def test_secrets_are_private_files_and_no_name_leads_elsewhere(directory: Directory, path: Path) -> None:
    directory.put_secret("gateway-1", "first")
    directory.put_secret("gateway-1", "s\u00e9cret")
    assert directory.secret("gateway-1") == "s\u00e9cret"
    file = path.parent / "secrets" / "gateway-1"
    assert {each.name for each in file.parent.iterdir()} == {"gateway-1", "srs-key"}
    assert file.stat().st_mode & 0o777 == 0o600
    assert (path.parent / "secrets.key").stat().st_mode & 0o777 == 0o600
    assert "s\u00e9cret".encode() not in file.read_bytes()
    assert file.parent.stat().st_mode & 0o777 == 0o700
    for ref in ("", "..", "../x", "a/b", "/etc/passwd", ".hidden", "a\0b", "x" * 300):
        with pytest.raises(InvalidValue):
            directory.secret(ref)
    with pytest.raises(InvalidValue):
        directory.put_secret("gateway-1", "")
    directory.remove_secret("gateway-1")
    directory.remove_secret("gateway-1")
    assert os.listdir(path.parent / "secrets") == ["srs-key"]


def test_a_secret_is_read_in_its_own_place_and_with_its_own_key_only(directory: Directory, path: Path) -> None:
    directory.put_secret("one", "first")
    directory.put_secret("two", "second")
    place = path.parent / "secrets"
    (place / "two").write_bytes((place / "one").read_bytes())
    with pytest.raises(DirectoryError, match="give the password again"):
        directory.secret("two")
    (path.parent / "secrets.key").write_bytes(b"k" * 32)
    with pytest.raises(DirectoryError, match="give the password again"):
        directory.secret("one")
    (path.parent / "secrets.key").unlink()
    with pytest.raises(DirectoryError, match="is missing"):
        directory.secret("one")


def test_a_secret_of_an_older_version_is_encrypted_at_the_next_start(directory: Directory, path: Path) -> None:
    place = path.parent / "secrets"
    (place / "old").write_text("in the clear")
    assert directory.secret("old") == "in the clear"
    Directory(path, migrate=True).close()
    assert b"clear" not in (place / "old").read_bytes()
    assert directory.secret("old") == "in the clear"


def test_errors_of_the_file_name_it_and_no_statement(tmp_path: Path) -> None:
    for content in (b"not a database, but long enough to be looked at as one" * 20, None):
        path = tmp_path / "directory.db"
        path.write_bytes(content) if content else path.unlink()
        with pytest.raises(DirectoryError) as caught:
            Directory(path)
        assert str(path) in str(caught.value)
        assert "SELECT" not in str(caught.value)


def test_a_locked_file_is_an_error_after_a_while_and_nothing_is_lost(
    hosting: Directory, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosting.close()
    monkeypatch.setattr("gatepost.directory.database.BUSY_SECONDS", 0.2)
    impatient = Directory(path, migrate=True)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(DirectoryError, match="locked"):
        impatient.add_user("alice@example.test", None, author="a")
    other.execute("ROLLBACK")
    other.close()
    assert impatient.add_user("alice@example.test", None, author="a")
    impatient.close()
