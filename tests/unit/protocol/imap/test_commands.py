"""Arguments of single commands as values: FETCH items, SEARCH keys, LIST options, AUTHENTICATE, CREATE."""

import pytest

from gatepost.protocol.imap import commands as c
from gatepost.protocol.imap.parse import parse_command


def fetch(items: str, *, name: str = "FETCH") -> c.Fetch:
    command = parse_command(f"a {name} 1 {items}".encode())
    assert isinstance(command, c.Fetch)
    return command


@pytest.mark.parametrize(
    ("items", "normal"),
    [
        ("flags", ("FLAGS",)),
        ("ALL", ("FLAGS", "INTERNALDATE", "RFC822.SIZE", "ENVELOPE")),
        ("FAST", ("FLAGS", "INTERNALDATE", "RFC822.SIZE")),
        ("FULL", ("FLAGS", "INTERNALDATE", "RFC822.SIZE", "ENVELOPE", "BODY")),
        ("(UID BODYSTRUCTURE uid)", ("UID", "BODYSTRUCTURE")),
        ("BODY[]", ("BODY[]",)),
        ("body.peek[header]", ("BODY.PEEK[HEADER]",)),
        ("(BODY[1.2.MIME] BODY[1.HEADER] BODY[TEXT]<10.20>)", ("BODY[1.2.MIME]", "BODY[1.HEADER]", "BODY[TEXT]<10.20>")),
        ('BODY.PEEK[HEADER.FIELDS (Date "From")]', ("BODY.PEEK[HEADER.FIELDS (DATE FROM)]",)),
        ("BODY.PEEK[3.header.fields.not (Date)]", ("BODY.PEEK[3.HEADER.FIELDS.NOT (DATE)]",)),
    ],
)
def test_fetch_items_are_normalised(items: str, normal: tuple[str, ...]) -> None:
    assert fetch(items).items == normal


@pytest.mark.parametrize(
    ("items", "marks"),
    [("BODY[]", True), ("RFC822", True), ("RFC822.TEXT", True), ("BODY.PEEK[]", False), ("BODY", False), ("RFC822.HEADER", False)],
)
def test_only_items_that_read_a_body_without_peek_mark_as_seen(items: str, marks: bool) -> None:
    assert fetch(items).marks_seen is marks


def test_uid_fetch_always_gives_the_uid() -> None:
    assert fetch("FLAGS", name="UID FETCH").items == ("UID", "FLAGS")


def search(text: str) -> c.Search:
    command = parse_command(f"a SEARCH {text}".encode())
    assert isinstance(command, c.Search)
    return command


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("ALL", ["ALL"]),
        ("SEEN UNDELETED", ["AND", ["FLAG", "\\Seen"], ["NOT", ["FLAG", "\\Deleted"]]]),
        ("OR FROM a (TO b CC c)", ["OR", ["HEADER", "FROM", "a"], ["AND", ["HEADER", "TO", "b"], ["HEADER", "CC", "c"]]]),
        ("NOT NOT ALL", ["NOT", ["NOT", ["ALL"]]]),
        ('HEADER Message-ID "<x@y>"', ["HEADER", "Message-ID", "<x@y>"]),
        ("1:3 UID 5", ["AND", ["SEQ", ((1, 3),)], ["UIDS", ((5, 5),)]]),
        ("NEW", ["AND", ["RECENT"], ["NOT", ["FLAG", "\\Seen"]]]),
        ("OLD", ["NOT", ["RECENT"]]),
        ("KEYWORD $x UNKEYWORD y", ["AND", ["FLAG", "$x"], ["NOT", ["FLAG", "y"]]]),
        ('SINCE 1-Feb-2024 SENTBEFORE "03-Mar-2024"', ["AND", ["SINCE", "2024-02-01"], ["SENTBEFORE", "2024-03-03"]]),
        ("LARGER 10 SMALLER 20", ["AND", ["LARGER", 10], ["SMALLER", 20]]),
        (
            "UNDRAFT UNFLAGGED UNANSWERED",
            ["AND", ["NOT", ["FLAG", "\\Draft"]], ["NOT", ["FLAG", "\\Flagged"]], ["NOT", ["FLAG", "\\Answered"]]],
        ),
    ],
)
def test_search_keys(text: str, key: list[object]) -> None:
    assert search(text).key == key


def test_search_return_options_and_charset() -> None:
    assert search("ALL").returns is None
    assert search("RETURN () ALL").returns == {"ALL"}
    assert search("RETURN (MIN COUNT) CHARSET utf-8 ALL").returns == {"MIN", "COUNT"}
    assert not search("CHARSET KOI8-R TEXT x").charset_known


def test_list_with_extended_options() -> None:
    selection = frozenset({"SUBSCRIBED", "RECURSIVEMATCH"})
    command = parse_command(b'a LIST (SUBSCRIBED RECURSIVEMATCH) "" (INBOX "Work/%") RETURN (CHILDREN STATUS (UNSEEN SIZE))')
    assert command == c.ListFolders(
        "a", "LIST", "", ("INBOX", "Work/%"), selection, frozenset({"CHILDREN", "STATUS"}), ("UNSEEN", "SIZE"), extended=True
    )


def test_authenticate_with_an_initial_response() -> None:
    assert parse_command(b"a AUTHENTICATE plain AGEAYg==") == c.Authenticate("a", "AUTHENTICATE", "PLAIN", b"\0a\0b")
    assert parse_command(b"a AUTHENTICATE PLAIN =") == c.Authenticate("a", "AUTHENTICATE", "PLAIN", b"")
    assert parse_command(b"a AUTHENTICATE PLAIN") == c.Authenticate("a", "AUTHENTICATE", "PLAIN", None)


def test_create_with_a_special_use() -> None:
    assert parse_command(b"a CREATE Post (USE (\\sent))") == c.Create("a", "CREATE", "Post", "\\Sent")


def test_every_parsed_command_has_its_states() -> None:
    lines = (
        b"a NOOP",
        b"a UID SEARCH ALL",
        b'a LSUB "" *',
        b"a ID NIL",
        b"a ENABLE CONDSTORE",
        b"a UID EXPUNGE 1:*",
        b"a MOVE 1 x",
    )
    for line in lines:
        assert parse_command(line).name in c.ALLOWED
