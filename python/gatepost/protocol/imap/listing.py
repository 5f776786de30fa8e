r"""LIST and LSUB (RFC 3501 6.3.8-9, RFC 5258, RFC 6154, RFC 3348): which names come, with which attributes.

Called by server/imap with the folders of a mailbox. A superior name without a folder of its own (its folder was deleted, the
children stayed) is listed as \NonExistent, which says \Noselect, too.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gatepost.protocol.imap.commands import ListFolders
from gatepost.protocol.imap.names import SEPARATOR, Pattern, parents
from gatepost.protocol.imap.responses import folder


@dataclass(frozen=True, slots=True)
class Entry:
    """A folder as LIST sees it."""

    name: str
    special_use: str
    subscribed: bool


@dataclass(frozen=True, slots=True)
class Listed:
    """One response. `exists`: the folder can be selected, and STATUS can be had."""

    name: str
    attributes: tuple[str, ...]
    exists: bool
    child_info: bool = False

    def encode(self, command: str) -> bytes:
        """The LIST or LSUB response line."""
        line = b'* %b (%b) "/" %b' % (command.encode(), " ".join(self.attributes).encode(), folder(self.name))
        return line + (b' ("CHILDINFO" ("SUBSCRIBED"))\r\n' if self.child_info else b"\r\n")


def listed(command: ListFolders, entries: Sequence[Entry]) -> list[Listed]:
    """Responses in name order, INBOX first."""
    patterns = [Pattern(command.reference + pattern) for pattern in command.patterns]
    by_name = {entry.name: entry for entry in entries}
    select = _lsub if command.name == "LSUB" else _list
    names = {*by_name, *(parent for name in by_name for parent in parents(name))}
    matching = sorted((n for n in names if any(p.matches(n) for p in patterns)), key=lambda n: (n != "INBOX", n))
    return select(command, by_name, matching)


def _list(command: ListFolders, by_name: dict[str, Entry], names: Iterable[str]) -> list[Listed]:
    subscribed_only = "SUBSCRIBED" in command.selection
    recursive = "RECURSIVEMATCH" in command.selection
    with_children = {parent for name in by_name for parent in parents(name)}
    selected = {name for name, entry in by_name.items() if _selected(command, entry)}
    above_selected = {parent for name in selected for parent in parents(name)} if recursive else set()
    found: list[Listed] = []
    for name in names:
        if name not in selected and name not in above_selected and (command.selection or name in by_name):
            continue
        entry = by_name.get(name)
        attributes = _attributes(command, entry, has_children=name in with_children)
        found.append(Listed(name, attributes, entry is not None, subscribed_only and name in above_selected))
    return found


def _selected(command: ListFolders, entry: Entry) -> bool:
    if "SUBSCRIBED" in command.selection and not entry.subscribed:
        return False
    return "SPECIAL-USE" not in command.selection or bool(entry.special_use)


def _attributes(command: ListFolders, entry: Entry | None, *, has_children: bool) -> tuple[str, ...]:
    attributes: list[str] = []
    if entry is None:
        attributes += ["\\NonExistent", "\\Noselect"] if command.extended else ["\\Noselect"]
    attributes.append("\\HasChildren" if has_children else "\\HasNoChildren")
    if entry is not None and entry.subscribed and "SUBSCRIBED" in command.selection | command.returns:
        attributes.append("\\Subscribed")
    if entry is not None and entry.special_use:
        attributes.append(entry.special_use)
    return tuple(attributes)


def _lsub(_command: ListFolders, by_name: dict[str, Entry], names: Iterable[str]) -> list[Listed]:
    r"""Subscribed names; above one that '%' cannot reach, the superior comes as \Noselect (RFC 3501 6.3.9)."""
    subscribed = {name for name, entry in by_name.items() if entry.subscribed}
    above = {parent for name in subscribed for parent in parents(name)}
    found: list[Listed] = []
    for name in names:
        if name in subscribed:
            found.append(Listed(name, (), exists=True))
        elif name in above and not _reaches_below(_command, name, subscribed):
            found.append(Listed(name, ("\\Noselect",), exists=False))
    return found


def _reaches_below(command: ListFolders, name: str, subscribed: Iterable[str]) -> bool:
    """Whether every subscribed folder below `name` is matched itself."""
    patterns = [Pattern(command.reference + pattern) for pattern in command.patterns]
    below = (child for child in subscribed if child.startswith(name + SEPARATOR))
    return all(any(pattern.matches(child) for pattern in patterns) for child in below)
