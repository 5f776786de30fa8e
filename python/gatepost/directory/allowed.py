"""Senders whose mail passes policy, in the table. Used by store.py inside its transactions.

Invariants: addresses are stored as Address.key; an entry is there once; at most MAX_ENTRIES, since every process holds them. Fails with
InvalidValue and NotFound.
"""

from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select

from gatepost.directory.clock import now_us
from gatepost.directory.errors import InvalidValue, NotFound
from gatepost.directory.schema import allowed_senders
from gatepost.directory.values import AllowedSender
from gatepost.message.address import AddressError, parse_address

MAX_ENTRIES = 100_000


def allow(connection: Connection, sender: str, recipient: str, author: str) -> AllowedSender:
    """Add an entry, or find the one that is there. `recipient` '' is every recipient."""
    sender, recipient = _key(sender, "sender"), _key(recipient, "recipient") if recipient else ""
    if (known := _find(connection, sender, recipient)) is not None:
        return known
    if connection.execute(select(func.count()).select_from(allowed_senders)).scalar_one() >= MAX_ENTRIES:
        raise InvalidValue("sender", f"there are {MAX_ENTRIES} allowed senders already; take some back")
    made = AllowedSender(sender, recipient, author[:200], now_us())
    connection.execute(insert(allowed_senders).values(sender=sender, recipient=recipient, author=made.author, created_at=made.created_at))
    return made


def take_back(connection: Connection, sender: str, recipient: str) -> None:
    """Remove one entry. Raises NotFound."""
    sender, recipient = _key(sender, "sender"), _key(recipient, "recipient") if recipient else ""
    table = allowed_senders.c
    if connection.execute(delete(allowed_senders).where(table.sender == sender, table.recipient == recipient)).rowcount == 0:
        raise NotFound(f"{sender} is not allowed" + (f" for {recipient}" if recipient else " for every recipient"))


def listed(connection: Connection) -> list[AllowedSender]:
    """Every entry, by sender and recipient."""
    table = allowed_senders.c
    return [_value(row) for row in connection.execute(select(allowed_senders).order_by(table.sender, table.recipient))]


def by_sender(connection: Connection) -> dict[str, frozenset[str]]:
    """For the rule set."""
    found: dict[str, set[str]] = {}
    for entry in listed(connection):
        found.setdefault(entry.sender, set()).add(entry.recipient)
    return {sender: frozenset(recipients) for sender, recipients in found.items()}


def _find(connection: Connection, sender: str, recipient: str) -> AllowedSender | None:
    table = allowed_senders.c
    row = connection.execute(select(allowed_senders).where(table.sender == sender, table.recipient == recipient)).first()
    return _value(row) if row is not None else None


def _value(row: Row[Any]) -> AllowedSender:
    return AllowedSender(row.sender, row.recipient, row.author, row.created_at)


def _key(text: str, field: str) -> str:
    try:
        return parse_address(text.strip()).key
    except AddressError as error:
        raise InvalidValue(field, f"{error} (got {text!r})") from None
