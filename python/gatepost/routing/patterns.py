"""Patterns of address handlers that are regular expressions: '/…/', of RE2's class (linear in the text, no back-references), for the whole
local part, case ignored. Used by the index and by validation.

Invariant: an expression that does not compile matches nothing and spoils no other. Memory is bounded per expression and per set.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from gatepost.routing.model import AddressHandler

MAX_EXPRESSION = 256
_EXPRESSION_MEMORY = 1 << 20
_SET_MEMORY = 64 << 20


def is_regex(pattern: str) -> bool:
    """Whether it is written '/…/'."""
    return len(pattern) > 2 and pattern[0] == "/" and pattern[-1] == "/"


@lru_cache(maxsize=1024)
def regex_fault(pattern: str) -> str:
    """Why '/…/' cannot be used; '' when it can."""
    import re2  # 8 ms that only those pay who use it

    if len(pattern) > MAX_EXPRESSION:
        return f"a regular expression has at most {MAX_EXPRESSION} characters"
    try:
        re2.compile(pattern[1:-1], _options(re2, _EXPRESSION_MEMORY))
    except re2.error as fault:
        detail = fault.args[0] if fault.args else ""
        return f"not a regular expression: {detail.decode(errors='replace') if isinstance(detail, bytes) else detail}"
    return ""


class RegexSet:
    """The expressions of one rule, matched in one pass."""

    __slots__ = ("_handlers", "_set")

    def __init__(self, handlers: Sequence[AddressHandler]) -> None:
        import re2

        self._handlers = [one for one in sorted(handlers, key=lambda one: one.pattern) if not regex_fault(one.pattern)]
        self._set = re2.Set.FullMatchSet(_options(re2, _SET_MEMORY))
        for one in self._handlers:
            self._set.Add(one.pattern[1:-1])
        if self._handlers:
            self._set.Compile()

    def named(self, pattern: str) -> AddressHandler | None:
        """The handler of exactly that expression."""
        return next((one for one in self._handlers if one.pattern == pattern), None)

    def matching(self, local: str) -> list[AddressHandler]:
        """In the order of their text."""
        if not self._handlers:
            return []
        return [self._handlers[n] for n in sorted(self._set.Match(local) or ())]


def _options(re2: Any, memory: int) -> Any:
    options = re2.Options()
    options.max_mem = memory
    options.log_errors = False
    options.case_sensitive = False
    return options
