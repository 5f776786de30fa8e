"""The native store: what goes in comes out, once, also after a restart, a lost index or damage."""

import array
import subprocess
import sys
from pathlib import Path

import pytest

from gatepost.native import (
    DamagedError,
    ExistsError,
    FormatVersionError,
    InvalidError,
    LockedError,
    NotFoundError,
    Spool,
    Store,
)
from support.mailstore import MAILBOX, OTHER, contents, deliver, drop_index, mail, octets, responses, spooled


def _inbox(store: Store, mailbox: bytes = MAILBOX) -> bytes:
    return store.folder(mailbox, "INBOX")[0]


def test_a_delivered_message_has_its_octets_behind_the_delivery_header(store: Store, spool: Spool) -> None:
    message = mail("one", bytes(range(1, 256)) * 10 + b"\r\n")
    assert deliver(store, spool, spooled(spool, message)) == [None]
    assert octets(store, _inbox(store), 1) == b"Delivered-To: x\r\n" + message


def test_a_delivery_makes_the_mailbox_with_its_special_folders(store: Store, spool: Spool) -> None:
    deliver(store, spool, spooled(spool, mail("one")), folder="No such folder")
    names = {info[1]: info[2] for info in store.folders(MAILBOX)}
    assert names == {
        "Archive": "\\Archive",
        "Drafts": "\\Drafts",
        "INBOX": "",
        "Junk": "\\Junk",
        "Sent": "\\Sent",
        "Trash": "\\Trash",
    }
    assert store.mailbox_usage(MAILBOX)[1] == 1


def test_the_same_delivery_twice_is_one_message(store: Store, spool: Spool) -> None:
    ids = spooled(spool, mail("one"))
    assert deliver(store, spool, ids * 2) == [None, None]
    assert deliver(store, spool, ids) == [None]
    assert store.folder(MAILBOX, "INBOX")[6] == 1


def test_a_missing_message_fails_alone(store: Store, spool: Spool) -> None:
    good, bad = spooled(spool, mail("one"))[0], b"\0" * 16
    results = deliver(store, spool, [bad, good])
    assert isinstance(results[0], NotFoundError)
    assert results[1] is None


def test_uids_are_packed_integers(store: Store, spool: Spool) -> None:
    deliver(store, spool, spooled(spool, *[mail(str(n)) for n in range(5)]))
    assert list(array.array("I", store.uids(_inbox(store)))) == [1, 2, 3, 4, 5]


def test_recent_is_claimed_once(store: Store, spool: Spool) -> None:
    deliver(store, spool, spooled(spool, mail("1"), mail("2")))
    assert store.claim_recent(_inbox(store)) == 1
    assert store.claim_recent(_inbox(store)) == 3
    text = b"".join(iter(store.fetch(_inbox(store), [(1, 1), (2, 2)], ["FLAGS"], recent_from_uid=2).read, b""))
    assert text == b"* 1 FETCH (FLAGS ())\r\n* 2 FETCH (FLAGS (\\Recent))\r\n"


def test_flags_are_added_removed_and_set(store: Store, spool: Spool) -> None:
    deliver(store, spool, spooled(spool, mail("1")))
    folder = _inbox(store)
    assert store.store_flags(folder, [1], "add", ["\\seen", "$Label"])[0][0][4] == ["\\Seen", "$Label"]
    modseq = store.messages(folder)[0][3]
    assert store.store_flags(folder, [1], "remove", ["$label"])[0][0][4] == ["\\Seen"]
    assert store.store_flags(folder, [1], "set", ["\\Flagged"], modseq)[1] == [1]
    assert store.store_flags(folder, [1], "set", [])[0][0][4] == []
    with pytest.raises(InvalidError):
        store.store_flags(folder, [1], "add", ["\\Nonsense"])


def test_a_folder_knows_its_keywords_and_its_first_unseen_message(store: Store, spool: Spool) -> None:
    deliver(store, spool, spooled(spool, mail("1"), mail("2")))
    folder = _inbox(store)
    assert (store.keywords(folder), store.first_unseen(folder)) == ([], 1)
    store.store_flags(folder, [1], "add", ["\\Seen", "b", "a"])
    assert (store.keywords(folder), store.first_unseen(folder)) == (["a", "b"], 2)
    store.store_flags(folder, [2], "add", ["\\Seen"])
    assert store.first_unseen(folder) == 0


def test_append_keeps_flags_and_date(store: Store) -> None:
    store.ensure_mailbox(MAILBOX)
    appender = store.append(_inbox(store), ["\\Seen"], 837_596_665_000_000)
    appender.feed(memoryview(b"Subject: x\r\n"))
    appender.feed(b"\r\nbody\r\n")
    validity, uid = appender.commit()
    assert (validity, uid) == (store.folder(MAILBOX, "INBOX")[4], 1)
    found = responses(store, _inbox(store), [(1, 1)], ["INTERNALDATE", "FLAGS"])
    assert found == b'* 1 FETCH (INTERNALDATE "17-Jul-1996 09:44:25 +0000" FLAGS (\\Seen))\r\n'


def test_an_append_that_is_dropped_leaves_nothing(store: Store) -> None:
    store.ensure_mailbox(MAILBOX)
    appender = store.append(_inbox(store), [], 0)
    appender.feed(b"x" * 1_000_000)
    del appender
    assert store.folder(MAILBOX, "INBOX")[6] == 0


def test_seen_is_set_by_a_fetch_that_asks_for_it_and_told(store: Store, spool: Spool) -> None:
    deliver(store, spool, spooled(spool, mail("1"), mail("2")))
    folder = _inbox(store)
    assert b"FLAGS" not in responses(store, folder, [(1, 1)], ["BODY.PEEK[]"], set_seen=True)
    stream = store.fetch(folder, [(1, 1)], ["BODY[TEXT]"], set_seen=True)
    assert stream.read() == b"* 1 FETCH (BODY[TEXT] {7}\r\nhello\r\n FLAGS (\\Seen))\r\n"
    assert [m[0] for m in stream.seen()] == [1]
    assert store.folder(MAILBOX, "INBOX")[7] == 1


def test_search_takes_a_tree(store: Store, spool: Spool) -> None:
    deliver(store, spool, spooled(spool, mail("apple"), mail("banana", b"fruit\r\n"), mail("cherry", b"fruit\r\n")))
    folder = _inbox(store)
    store.store_flags(folder, [3], "add", ["\\Flagged"])

    def search(query: list[object]) -> list[int]:
        return store.search(folder, [1, 2, 3], query)

    assert search(["AND", ["BODY", "FRUIT"], ["NOT", ["FLAG", "\\Flagged"]]]) == [2]
    assert search(["OR", ["HEADER", "Subject", "apple"], ["UID", 3, 9]]) == [1, 3]
    assert search(["SINCE", "2020-01-01"]) == [1, 2, 3]
    assert search(["LARGER", 1_000]) == []
    bad_ones: list[list[object]] = [[], ["NONSENSE"], ["SINCE", "yesterday"], ["NOT"]]
    for bad in bad_ones:
        with pytest.raises(InvalidError):
            search(bad)


def test_unknown_things_are_not_found_and_bad_ones_invalid(store: Store) -> None:
    store.ensure_mailbox(MAILBOX)
    with pytest.raises(NotFoundError):
        store.folder(MAILBOX, "x")
    with pytest.raises(NotFoundError):
        store.message(_inbox(store), 7)
    with pytest.raises(NotFoundError):
        store.messages(b"?" * 16)
    with pytest.raises(ExistsError):
        store.create_folder(MAILBOX, "Inbox")
    for name in ("", "a//b", "a\nb", "x" * 300):
        with pytest.raises(InvalidError):
            store.create_folder(MAILBOX, name)
    with pytest.raises(InvalidError):
        store.delete_folder(MAILBOX, "INBOX")
    with pytest.raises(InvalidError):
        store.fetch(_inbox(store), [(1, 1)], ["NONSENSE"])


def test_copies_into_another_mailbox_are_refused(store: Store, spool: Spool) -> None:
    deliver(store, spool, spooled(spool, mail("1")))
    store.ensure_mailbox(OTHER)
    with pytest.raises(InvalidError):
        store.copy(_inbox(store), [1], _inbox(store, OTHER), False)


def test_a_restart_keeps_everything(store: Store, spool: Spool, volume: Path) -> None:
    deliver(store, spool, spooled(spool, mail("1"), mail("2")))
    store.store_flags(_inbox(store), [2], "add", ["\\Seen"])
    before = contents(store)
    store.close()
    again = Store(str(volume), stream="w0")
    assert contents(again) == before
    again.close()


def test_a_lost_index_is_rebuilt_from_the_log(store: Store, spool: Spool, volume: Path) -> None:
    deliver(store, spool, spooled(spool, *[mail(str(n), b"x" * n * 50_000 + b"\r\n") for n in range(8)]))
    folder = _inbox(store)
    work = store.create_folder(MAILBOX, "Work/2024")
    store.copy(folder, [1, 2], work, True)
    store.store_flags(work, [1], "add", ["\\Seen", "key"])
    store.store_flags(folder, [3], "add", ["\\Deleted"])
    store.expunge(folder, None)
    before = contents(store)
    validity = store.folder(MAILBOX, "INBOX")[4]
    store.close()
    drop_index(volume)
    again = Store(str(volume), stream="w0")
    assert again.recovery["rebuilt"] == 1
    assert contents(again) == before
    assert again.folder(MAILBOX, "INBOX")[4] > validity
    again.close()


def test_a_damaged_record_costs_one_message(store: Store, spool: Spool, volume: Path) -> None:
    deliver(store, spool, spooled(spool, mail("1", b"first body\r\n"), mail("2", b"second body\r\n")))
    segment = volume / "log" / "w0" / "00000001.seg"
    raw = bytearray(segment.read_bytes())
    raw[raw.index(b"first body")] ^= 1
    segment.write_bytes(raw)
    folder = _inbox(store)
    with pytest.raises(DamagedError, match="seg"):
        store.message(folder, 1)
    assert octets(store, folder, 2).endswith(b"second body\r\n")
    stream = store.fetch(folder, [(1, 1), (2, 2)], ["UID", "BODY.PEEK[TEXT]"])
    assert stream.read() == b"* 1 FETCH (UID 1)\r\n* 2 FETCH (UID 2 BODY[TEXT] {13}\r\nsecond body\r\n)\r\n"
    with pytest.raises(DamagedError):
        stream.read()
    assert stream.read() == b""


def test_a_stream_has_one_owner_and_a_newer_format_is_refused(store: Store, volume: Path) -> None:
    with pytest.raises(LockedError):
        Store(str(volume), stream="w0")
    store.close()
    (volume / "format").write_text("gatepost volume 99\n")
    with pytest.raises(FormatVersionError):
        Store(str(volume), stream="w0")


def test_the_mailbox_lock_holds_across_processes_and_goes_with_its_holder(store: Store, volume: Path) -> None:
    program = (
        "import sys; from gatepost.native import Store\n"
        f"store = Store({str(volume)!r}, stream='w1'); lock = store.lock_mailbox({MAILBOX!r})\n"
        "print(lock is not None, flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == "True\n"
        assert store.lock_mailbox(MAILBOX) is None
    finally:
        child.kill()
        child.communicate()
    lock = store.lock_mailbox(MAILBOX)
    assert lock is not None
    lock.release()


def test_two_processes_see_each_others_changes(store: Store, spool: Spool, volume: Path) -> None:
    deliver(store, spool, spooled(spool, mail("from the first")))
    before = store.poll(0)[0]
    program = (
        "from gatepost.native import Store\n"
        f"store = Store({str(volume)!r}, stream='w1')\n"
        f"folder = store.folder({MAILBOX!r}, 'INBOX')[0]\n"
        "print(store.message(folder, 1).size)\n"
        "appender = store.append(folder, [], 0); appender.feed(b'Subject: second\\r\\n\\r\\nx\\r\\n'); appender.commit()\n"
        "store.store_flags(folder, [1], 'add', ['\\\\Answered']); store.close()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    folder = _inbox(store)
    assert int(done.stdout) == len(octets(store, folder, 1))
    now, changed = store.poll(before)
    assert now > before
    assert changed == [folder]
    assert octets(store, folder, 2) == b"Subject: second\r\n\r\nx\r\n"
    assert store.messages(folder)[0][4] == ["\\Answered"]
    _, messages, expunged = store.changes(folder, before)
    assert ([m[0] for m in messages], expunged) == ([1, 2], [])
