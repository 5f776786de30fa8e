"""Whose a failure is: the return path of one recipient's copy, which need not be that of the message. Pure.

Called by settle (who is told) and by delivery (what MAIL FROM says). A route to a member of a list has a path that leads to the list, an
automatic answer has none; a forward's rewritten path leads to the sender in the end, so reports of ours go there directly.
"""

from gatepost.message.verp import verp
from gatepost.routing.model import Route

NULL = "<>"
SRS = "srs:"
VERP = "verp:"


def report_path(reverse_path: str, route: Route) -> str:
    """Where a report about this route goes, '' for nowhere."""
    path = route.return_path
    if not path or path.startswith(SRS):
        return reverse_path
    if path == NULL or not reverse_path:
        # RFC 5321 4.5.5: what came with a null reverse-path is a notice, and goes on as one.
        return ""
    return verp(path.removeprefix(VERP), route.member) if path.startswith(VERP) else path
