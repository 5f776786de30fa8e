"""The session's view of its folder: numbers move only with EXPUNGE responses, and the client hears of each change once."""

from array import array

from hypothesis import given
from hypothesis import strategies as st

from gatepost.protocol.imap.view import FolderView, Message


def view(*uids: int, recent_from: int = 100) -> FolderView:
    return FolderView(b"f" * 16, "INBOX", 7, 10, array("I", uids), read_only=False, recent_from=recent_from)


def message(uid: int, modseq: int = 11, *flags: str) -> Message:
    return (uid, 100, 0, modseq, list(flags), b"")


def test_new_messages_are_announced_with_exists_and_recent() -> None:
    v = view(1, 2, recent_from=3)
    assert v.apply(12, [message(3, 12), message(5, 12)], [], may_expunge=False, told={}) == [b"* 4 EXISTS\r\n* 2 RECENT\r\n"]
    assert (list(v.uids), v.modseq) == ([1, 2, 3, 5], 12)


def test_expunges_wait_until_they_may_be_told() -> None:
    v = view(1, 2, 3, 4)
    assert v.apply(11, [], [2, 3], may_expunge=False, told={}) == []
    assert v.number_of(4) == 4
    assert v.has_gone
    assert v.release_expunges() == [b"* 3 EXPUNGE\r\n* 2 EXPUNGE\r\n"]
    assert (list(v.uids), v.number_of(4), v.has_gone) == ([1, 4], 2, False)


def test_expunges_come_before_exists_and_the_count_fits() -> None:
    v = view(1, 2)
    out = v.apply(12, [message(3, 12)], [1], may_expunge=True, told={})
    assert out == [b"* 1 EXPUNGE\r\n", b"* 2 EXISTS\r\n* 0 RECENT\r\n"]


def test_a_message_that_came_and_went_unseen_is_not_mentioned() -> None:
    assert view(1).apply(12, [], [2], may_expunge=True, told={}) == []


def test_flag_changes_are_told_with_the_uid() -> None:
    assert view(4, 9).apply(12, [message(9, 12, "\\Seen")], [], may_expunge=True, told={}) == [b"* 2 FETCH (UID 9 FLAGS (\\Seen))\r\n"]


def test_a_change_the_client_has_had_an_answer_for_is_not_told_again_but_a_later_one_is() -> None:
    v = view(1, 2)
    assert v.apply(12, [message(1, 12, "\\Seen")], [], may_expunge=True, told={1: 12}) == []
    assert v.apply(14, [message(1, 14)], [], may_expunge=True, told={1: 13}) == [b"* 1 FETCH (UID 1 FLAGS ())\r\n"]


def test_a_message_that_is_gone_gets_no_flags() -> None:
    v = view(1, 2)
    v.apply(11, [], [1], may_expunge=False, told={})
    assert v.apply(12, [message(1, 12, "\\Seen")], [], may_expunge=False, told={}) == []


def test_recent_is_shown_from_the_first_claimed_uid() -> None:
    v = view(1, 2, 3, recent_from=3)
    assert v.recent == 1
    assert v.fetch_flags(message(3), with_uid=False) == b"* 3 FETCH (FLAGS (\\Recent))\r\n"


def test_a_new_keyword_announces_flags_first() -> None:
    out = view(1).apply(12, [message(1, 12, "$Work")], [], may_expunge=True, told={})
    assert out[0] == b"* FLAGS (\\Answered \\Flagged \\Deleted \\Seen \\Draft $Work)\r\n"


def test_search_keys_are_bound_to_uids() -> None:
    v = view(5, 6, 9, recent_from=9)
    key = ["AND", ["SEQ", ((2, 0),)], ["NOT", ["UIDS", ((1, 5),)]], ["RECENT"], ["SEQ", ((50, 60),)]]
    assert v.bind_search(key) == ["AND", ["UID", 6, 6, 9, 9], ["NOT", ["UID", 5, 5]], ["UID", 9, 0xFFFFFFFF], ["NOT", ["ALL"]]]


class Client:
    """What a client makes of the responses alone: how many messages there are, and which uid it learnt for each."""

    def __init__(self, uids: list[int]) -> None:
        self.uids: list[int | None] = list(uids)

    def hear(self, responses: list[bytes]) -> None:
        for line in b"".join(responses).decode().splitlines():
            _, number, word, *rest = line.split(" ")
            if word == "EXPUNGE":
                del self.uids[int(number) - 1]
            elif word == "EXISTS":
                assert int(number) >= len(self.uids)
                self.uids += [None] * (int(number) - len(self.uids))
            elif word == "FETCH":
                uid = int(rest[1])
                assert self.uids[int(number) - 1] in (None, uid)
                self.uids[int(number) - 1] = uid


@given(st.lists(st.tuples(st.sampled_from(["add", "expunge", "flag"]), st.integers(0, 30), st.booleans(), st.booleans()), max_size=60))
def test_whatever_happens_the_client_counts_as_the_store_does(steps: list[tuple[str, int, bool, bool]]) -> None:
    there, following, modseq = [1, 2, 3], 4, 10
    v, client = view(*there), Client(there)
    changed: dict[int, Message] = {}
    gone: list[int] = []
    for what, which, sync, may_expunge in steps:
        modseq += 1
        if what == "add":
            there.append(following)
            changed[following] = message(following, modseq)
            following += 1
        elif there and what == "expunge":
            uid = there.pop(which % len(there))
            changed.pop(uid, None)
            gone.append(uid)
        elif there:
            uid = there[which % len(there)]
            changed[uid] = message(uid, modseq, "\\Seen")
        if sync:
            client.hear(v.apply(modseq, sorted(changed.values()), gone, may_expunge=may_expunge, told={}))
            changed, gone = {}, []
            assert len(client.uids) == len(v.uids)
    client.hear(v.apply(modseq + 1, sorted(changed.values()), gone, may_expunge=True, told={}))
    assert list(v.uids) == there
    assert all(known in (None, uid) for known, uid in zip(client.uids, there, strict=True))
