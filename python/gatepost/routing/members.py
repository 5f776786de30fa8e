"""Members of mailing lists as they left it themselves: who signed on or off, who reads digests, whom bounces ended. Values only.

Kept by queue/list_store.py, which is no part of the rules or their versions: going back to an older rule set signs nobody on again.
routing/lists.py asks for each post. Invariants: who signed off gets nothing, also when the handler names the address as a target.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from gatepost.message.address import AddressError, parse_address


class MemberState(StrEnum):
    """disabled: too many bounces; the member is still one and may post, and gets nothing until it or an owner says otherwise."""

    SUBSCRIBED = "subscribed"
    UNSUBSCRIBED = "unsubscribed"
    DISABLED = "disabled"


@dataclass(frozen=True, slots=True)
class Member:
    """What differs from a plain target of the handler. digest: posts come together, once a day."""

    address: str
    state: MemberState = MemberState.SUBSCRIBED
    digest: bool = False


ListBook = Mapping[str, Mapping[str, Member]]
"""By the list's address and the member's, both as Address.key."""
NO_LISTS: ListBook = {}
NOBODY: Mapping[str, Member] = {}


class LiveBook(Mapping[str, Mapping[str, Member]]):
    """A ListBook that is replaced as a whole when members asked for something; rule sets share it. `revision`: what it was read at."""

    def __init__(self) -> None:
        self.revision = 0
        self.entries: ListBook = NO_LISTS

    def __getitem__(self, address: str) -> Mapping[str, Member]:
        return self.entries[address]

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


@dataclass(frozen=True, slots=True)
class Reached:
    """Whom a post reaches: each for itself, by digest, and those who are members and get nothing."""

    each: tuple[str, ...]
    digest: tuple[str, ...] = ()
    disabled: tuple[str, ...] = ()
    left: int = 0
    """Targets of the handler that have signed off."""

    @property
    def members(self) -> tuple[str, ...]:
        """All who may post where members may."""
        return (*self.each, *self.digest, *self.disabled)


def reached(targets: Sequence[str], known: Mapping[str, Member]) -> Reached:
    """The handler's targets, as changed by what members asked for."""
    if not known:
        return Reached(tuple(targets))
    all_members = {address_key(one): Member(one) for one in targets}
    named = set(all_members)
    all_members |= known
    chosen: dict[str, list[str]] = {"each": [], "digest": [], MemberState.DISABLED: [], MemberState.UNSUBSCRIBED: []}
    for key, one in all_members.items():
        place = one.state if one.state is not MemberState.SUBSCRIBED else "digest" if one.digest else "each"
        chosen[place].append(one.address if place != MemberState.UNSUBSCRIBED else key)
    left = sum(key in named for key in chosen[MemberState.UNSUBSCRIBED])
    return Reached(tuple(chosen["each"]), tuple(chosen["digest"]), tuple(chosen[MemberState.DISABLED]), left)


def address_key(address: str) -> str:
    """How members and lists are told apart; what is no address stands for itself."""
    try:
        return parse_address(address, lenient_dot=True).key
    except AddressError:
        return address.lower()
