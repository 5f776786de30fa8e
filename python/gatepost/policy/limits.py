"""Counts of open connections, in all and per client address. Called at connect and disconnect by every SMTP and LMTP listener
of a worker, which share one counter. `admit` that returned None must be paired with one `release`.
"""

from collections.abc import Callable

from gatepost.message.reply import Reply
from gatepost.native import Connections

TOO_MANY = Reply(421, "4.7.0", "too many connections, try again later")
TOO_MANY_FROM_CLIENT = Reply(421, "4.7.0", "too many connections from your address")
REFUSALS = {"": None, "total": TOO_MANY, "client": TOO_MANY_FROM_CLIENT}
"""By what the native side says is used up."""


class ConnectionCounter:
    """Open connections of one worker. The counts are native, since plain connections are counted there."""

    def __init__(self) -> None:
        self.native = Connections()

    @property
    def total(self) -> int:
        """All open connections."""
        return self.native.total

    def admit(self, client: str, max_total: int, max_per_client: int, exempt: Callable[[str], bool]) -> Reply | None:
        """Count one more, or say why not. `exempt` tells clients that have no limit of their own (loopback, trusted networks)."""
        lack = self.native.admit(client, max_total, max_per_client)
        if lack == "client" and exempt(client):
            lack = self.native.admit(client, max_total, None)
        return REFUSALS[lack]

    def release(self, client: str) -> None:
        """One connection of `client` is gone."""
        self.native.release(client)

    def of_client(self, client: str) -> int:
        """Open connections of one address."""
        return self.native.of_client(client)
