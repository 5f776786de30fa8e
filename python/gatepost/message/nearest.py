"""What to add to the refusal of a name that nobody knows. Pure; called by whoever checks what an administrator wrote (rule documents,
policies, the directory).
"""

from collections.abc import Sequence
from difflib import get_close_matches


def nearest(name: str, known: Sequence[str]) -> str:
    """'; did you mean …?' with the closest known name, '' when none is close."""
    close = get_close_matches(name, known, 1)
    return f"; did you mean {str(close[0])!r}?" if close else ""
