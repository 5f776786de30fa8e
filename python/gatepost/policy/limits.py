"""Counts of open connections, in all and per client address. Called at connect and disconnect by every SMTP and LMTP listener
of a worker, which share one counter. `admit` that returned None must be paired with one `release`.
"""

from collections.abc import Callable

from gatepost.message.reply import Reply

TOO_MANY = Reply(421, "4.7.0", "too many connections, try again later")
TOO_MANY_FROM_CLIENT = Reply(421, "4.7.0", "too many connections from your address")


class ConnectionCounter:
    """Open connections of one worker."""

    def __init__(self) -> None:
        self.total = 0
        self._by_client: dict[str, int] = {}

    def admit(self, client: str, max_total: int, max_per_client: int, exempt: Callable[[str], bool]) -> Reply | None:
        """Count one more, or say why not. `exempt` tells clients that have no limit of their own (loopback, trusted networks)."""
        if self.total >= max_total:
            return TOO_MANY
        count = self._by_client.get(client, 0)
        if count >= max_per_client and not exempt(client):
            return TOO_MANY_FROM_CLIENT
        self._by_client[client] = count + 1
        self.total += 1
        return None

    def release(self, client: str) -> None:
        """One connection of `client` is gone."""
        self.total -= 1
        count = self._by_client[client] - 1
        if count:
            self._by_client[client] = count
        else:
            del self._by_client[client]

    def of_client(self, client: str) -> int:
        """Open connections of one address."""
        return self._by_client.get(client, 0)
