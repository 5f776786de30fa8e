"""The small ordered lists of a rule set, by name: each a tuple of one kind of entry, stored, versioned and sent as a whole.

Used by directory (storage), routing.document and control. A new list is one line here, a field of RuleSet and Document, and a message of
flow.proto.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from gatepost.routing.senders import SenderRule
from gatepost.routing.stages import StagePolicy
from gatepost.routing.trust import TrustEntry

PARTS: Mapping[str, type] = {"trust": TrustEntry, "sender_rules": SenderRule, "stage_policies": StagePolicy}
"""Field of RuleSet and Document → kind of its entries, each with a `name`."""

MAX_ENTRIES = 500
"""Of one list: they are looked at one after another."""

Parts = Mapping[str, Sequence[Any]]


def parts_of(holder: Any) -> dict[str, tuple[Any, ...]]:
    """The lists of a RuleSet or Document."""
    return {name: getattr(holder, name) for name in PARTS}
