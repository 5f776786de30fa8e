"""LIST and LSUB over a small tree."""

from gatepost.protocol.imap.commands import ListFolders
from gatepost.protocol.imap.listing import Entry, listed
from gatepost.protocol.imap.parse import parse_command

TREE = [
    Entry("INBOX", "", subscribed=True),
    Entry("Sent", "\\Sent", subscribed=False),
    Entry("Work/2024", "", subscribed=True),
    Entry("Work/2024/Q1", "", subscribed=False),
    Entry("Zoo", "", subscribed=False),
]


def lines(command: str) -> list[str]:
    parsed = parse_command(f"a {command}".encode())
    assert isinstance(parsed, ListFolders)
    return [item.encode(parsed.name).decode().strip().removeprefix("* ") for item in listed(parsed, TREE)]


def test_star_lists_everything_with_inbox_first() -> None:
    assert lines('LIST "" *') == [
        'LIST (\\HasNoChildren) "/" "INBOX"',
        'LIST (\\HasNoChildren \\Sent) "/" "Sent"',
        'LIST (\\Noselect \\HasChildren) "/" "Work"',
        'LIST (\\HasChildren) "/" "Work/2024"',
        'LIST (\\HasNoChildren) "/" "Work/2024/Q1"',
        'LIST (\\HasNoChildren) "/" "Zoo"',
    ]


def test_percent_stops_at_the_separator() -> None:
    assert [line.rpartition(" ")[2] for line in lines('LIST "" %')] == ['"INBOX"', '"Sent"', '"Work"', '"Zoo"']
    assert [line.rpartition(" ")[2] for line in lines('LIST "Work/" %')] == ['"Work/2024"']


def test_lsub_gives_a_noselect_superior_only_where_the_pattern_stops_above() -> None:
    assert lines('LSUB "" %') == ['LSUB () "/" "INBOX"', 'LSUB (\\Noselect) "/" "Work"']
    assert lines('LSUB "" *') == ['LSUB () "/" "INBOX"', 'LSUB () "/" "Work/2024"']


def test_the_subscribed_selection_and_its_recursion() -> None:
    assert lines('LIST (SUBSCRIBED) "" *') == [
        'LIST (\\HasNoChildren \\Subscribed) "/" "INBOX"',
        'LIST (\\HasChildren \\Subscribed) "/" "Work/2024"',
    ]
    assert lines('LIST (SUBSCRIBED RECURSIVEMATCH) "" %') == [
        'LIST (\\HasNoChildren \\Subscribed) "/" "INBOX"',
        'LIST (\\NonExistent \\Noselect \\HasChildren) "/" "Work" ("CHILDINFO" ("SUBSCRIBED"))',
    ]


def test_the_special_use_selection() -> None:
    assert lines('LIST (SPECIAL-USE) "" *') == ['LIST (\\HasNoChildren \\Sent) "/" "Sent"']


def test_returning_the_subscription_state() -> None:
    assert lines('LIST "" (INBOX Zoo) RETURN (SUBSCRIBED)') == [
        'LIST (\\HasNoChildren \\Subscribed) "/" "INBOX"',
        'LIST (\\HasNoChildren) "/" "Zoo"',
    ]
