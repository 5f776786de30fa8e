"""The IMAP listener. See server/access/listener.py for what it does and its limits."""

from collections.abc import Callable
from functools import partial

from gatepost.server.access.connection import Connection
from gatepost.server.access.listener import AccessServer
from gatepost.server.imap.connection import ImapConnection


class ImapServer(AccessServer):
    """Listens for IMAP."""

    protocol = "imap"

    def factory(self) -> Callable[[], Connection]:
        """A session for each connection."""
        return partial(ImapConnection, self)
