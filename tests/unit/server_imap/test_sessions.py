"""Several sessions on one folder: each hears of what the others did, within a second, in its own worker or another."""

import time

import pytest

from support.access import ALICE, CHANGE_SECONDS, AccessHost, RawImap

MESSAGE = b"Subject: hello\r\n\r\nbody\r\n"


@pytest.fixture(params=["same worker", "another worker"])
def pair(request: pytest.FixtureRequest, host: AccessHost) -> tuple[RawImap, RawImap]:
    """(watcher, actor): two sessions with INBOX selected, of one store or of two on the same volume."""
    with host.raw("imap", user=ALICE) as first:
        for _ in range(3):
            first.append(MESSAGE)
    second_host = host if request.param == "same worker" else request.getfixturevalue("other")
    return host.raw("imap", user=ALICE, folder="INBOX"), second_host.raw("imap", user=ALICE, folder="INBOX")


def idle(session: RawImap) -> None:
    session.send(b"i1 IDLE\r\n")
    session.until("+ ")
    time.sleep(0.3)  # what was pending is told at once; the test's change comes after that


def done(session: RawImap) -> list[str]:
    session.send(b"DONE\r\n")
    return session.until("i1 OK")


def eventually(session: RawImap, wanted: str) -> list[str]:
    """NOOP until the wanted line comes, for a second."""
    deadline = time.monotonic() + CHANGE_SECONDS
    while time.monotonic() < deadline:
        lines = session.ok("NOOP")
        if any(wanted in line for line in lines):
            return lines
        time.sleep(0.05)
    raise AssertionError(f"{wanted} did not come")


def test_new_mail_flags_and_expunges_are_pushed_while_idling(pair: tuple[RawImap, RawImap]) -> None:
    watcher, actor = pair
    idle(watcher)
    actor.append(MESSAGE)
    watcher.until("* 4 EXISTS")
    actor.ok("UID STORE 2 +FLAGS (\\Flagged)")
    watcher.until("* 2 FETCH (UID 2 FLAGS (\\Flagged")
    actor.ok("UID STORE 1 +FLAGS.SILENT (\\Deleted)")
    watcher.until("* 1 FETCH (UID 1 FLAGS (\\Deleted")
    actor.ok("EXPUNGE")
    watcher.until("* 1 EXPUNGE")
    assert done(watcher) == ["i1 OK IDLE terminated"]
    assert watcher.ok("UID SEARCH ALL") == ["* SEARCH 2 3 4"]


def test_changes_are_told_before_the_next_tagged_response(pair: tuple[RawImap, RawImap]) -> None:
    watcher, actor = pair
    actor.ok("STORE 3 +FLAGS ($Label)")
    assert any("* 3 FETCH (UID 3 FLAGS ($Label" in line for line in eventually(watcher, "$Label"))
    actor.append(MESSAGE)
    eventually(watcher, "* 4 EXISTS")


def test_numbers_stay_while_fetch_store_and_search_run_after_an_expunge_elsewhere(pair: tuple[RawImap, RawImap]) -> None:
    watcher, actor = pair
    actor.ok("STORE 1 +FLAGS (\\Deleted)")
    actor.ok("EXPUNGE")
    time.sleep(0.6)
    lines = watcher.command("FETCH 1:3 (UID)")
    assert [line for line in lines if "UID" in line and "FLAGS" not in line] == ["* 2 FETCH (UID 2)", "* 3 FETCH (UID 3)"]
    assert not any("EXPUNGE" in line and line.startswith("*") for line in lines)
    assert not any(line.endswith("EXPUNGE") for line in watcher.command("SEARCH ALL"))
    assert watcher.ok("NOOP") == ["* 1 EXPUNGE"]
    assert watcher.ok("SEARCH ALL") == ["* SEARCH 1 2"]


def test_a_session_hears_of_its_own_change_once(pair: tuple[RawImap, RawImap]) -> None:
    watcher, _ = pair
    assert watcher.ok("STORE 1 +FLAGS (\\Seen)") == ["* 1 FETCH (FLAGS (\\Seen \\Recent))"] or watcher.ok("NOOP") == []
    assert watcher.ok("STORE 2 +FLAGS.SILENT (\\Seen)") == []
    time.sleep(0.6)
    assert watcher.ok("NOOP") == []


def test_reading_a_body_tells_the_seen_flag_once_and_to_the_other_session_too(pair: tuple[RawImap, RawImap]) -> None:
    watcher, actor = pair
    lines = actor.ok("FETCH 2 BODY[TEXT]")
    assert sum("\\Seen" in line for line in lines) == 1
    eventually(watcher, "\\Seen")
    assert not any("\\Seen" in line for line in actor.ok("NOOP"))


def test_a_session_whose_folder_is_deleted_gets_bye(host: AccessHost) -> None:
    with host.raw("imap", user=ALICE) as actor, host.raw("imap", user=ALICE) as watcher:
        actor.ok("CREATE Doomed")
        watcher.ok("SELECT Doomed")
        actor.ok("DELETE Doomed")
        watcher.send(b"x NOOP\r\n")
        watcher.until("* BYE")
        assert watcher.line() == ""


def test_a_renamed_folder_stays_selected(host: AccessHost) -> None:
    with host.raw("imap", user=ALICE) as actor, host.raw("imap", user=ALICE) as watcher:
        actor.ok("CREATE Before")
        watcher.ok("SELECT Before")
        actor.ok("RENAME Before After")
        actor.append(MESSAGE, "After")
        eventually(watcher, "* 1 EXISTS")


def test_recent_goes_to_one_session(host: AccessHost) -> None:
    with host.raw("imap", user=ALICE) as first, host.raw("imap", user=ALICE) as second:
        first.append(MESSAGE)
        assert "* 1 RECENT" in first.ok("SELECT INBOX")
        assert "* 0 RECENT" in second.ok("SELECT INBOX")


def test_examine_does_not_claim_recent(host: AccessHost) -> None:
    with host.raw("imap", user=ALICE) as client:
        client.append(MESSAGE)
        assert "* 1 RECENT" in client.ok("EXAMINE INBOX")
        assert "* 1 RECENT" in client.ok("SELECT INBOX")


def test_every_session_gets_bye_when_the_server_stops(host: AccessHost) -> None:
    sessions = [host.raw("imap", user=ALICE, folder="INBOX"), host.raw("imap", user=ALICE), host.raw("imap")]
    idle(sessions[0])
    host.call(lambda: host.servers["imap"].stop(5))
    for session in sessions:
        session.until("* BYE")
        assert session.line() == ""


def test_select_tells_the_keywords_in_use_and_the_first_unseen_message(host: AccessHost) -> None:
    with host.raw("imap", user=ALICE) as client:
        client.append(MESSAGE, flags="(\\Seen $Work)")
        client.append(MESSAGE, flags="(Home)")
        lines = client.ok("SELECT INBOX")
        assert {"$Work", "Home"} <= set(lines[0].removeprefix("* FLAGS (").removesuffix(")").split())
        assert any(line.startswith("* OK [UNSEEN 2]") for line in lines)


def test_children_of_a_deleted_folder_stay(host: AccessHost) -> None:
    with host.raw("imap", user=ALICE) as client:
        client.ok("CREATE Above/Below")
        client.ok("DELETE Above")
        lines = client.ok('LIST "" Above*')
        assert lines == ['* LIST (\\Noselect \\HasChildren) "/" "Above"', '* LIST (\\HasNoChildren) "/" "Above/Below"']
        assert client.command("SELECT Above")[-1].startswith("NO [NONEXISTENT]")
