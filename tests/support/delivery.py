"""Jobs made by hand, a reader over octets in memory, settings with short deadlines: for tests of the delivery transports."""

from collections.abc import Sequence
from typing import Any

from gatepost.config import Settings
from gatepost.config.settings import Delivery
from gatepost.delivery.smtp import SmtpTransport
from gatepost.message.envelope import Meta, Notify, Origin
from gatepost.queue.transport import Job, JobRecipient
from gatepost.routing.model import Route, RouteKind, TlsPolicy

MESSAGE = b"Received: by here\r\nSubject: hello\r\n\r\n.dot\r\nbody\r\n"


class MemoryReader:
    """The part of the native Reader that the client uses, over octets in memory."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._unread = data
        self._rest = (b"\r\n" + data).replace(b"\r\n.", b"\r\n..")[2:] + b".\r\n"

    @property
    def size(self) -> int:
        return len(self.data)

    def edited(self, edits: Sequence[tuple[int, int, bytes]]) -> "MemoryReader":
        out, at = b"", 0
        for start, end, put in sorted(edits, key=lambda edit: edit[:2]):
            assert at <= start <= end <= len(self.data)
            out, at = out + self.data[at:start] + put, end
        return MemoryReader(out + self.data[at:])

    def read(self, n: int = 65536) -> bytes:
        piece, self._unread = self._unread[:n], self._unread[n:]
        return piece

    def read_dotted(self, n: int = 65536) -> bytes:
        piece, self._rest = self._rest[:n], self._rest[n:]
        return piece

    def header(self, limit: int = 65536) -> bytes:
        return self.data[: self.data.find(b"\r\n\r\n") + 4][:limit]


def make_job(*addresses: str, port: int = 25, host: str = "127.0.0.1", sender: str = "a@here.test", **more: Any) -> Job:
    """A job for a gateway on loopback; `meta`, `size`, `notify`, `orcpt`, and fields of Route may be given."""
    meta = more.pop("meta", Meta(Origin("ESMTP")))
    size, notify, orcpt = more.pop("size", len(MESSAGE)), more.pop("notify", Notify.UNSET), more.pop("orcpt", "")
    kind = more.pop("kind", RouteKind.SMTP)
    tls = more.pop("tls", TlsPolicy.OPPORTUNISTIC)
    recipients = [
        JobRecipient(index, address, orcpt, notify, Route(kind, address, host=host, port=port, tls=tls, **more), 0)
        for index, address in enumerate(addresses)
    ]
    return Job(b"\x01" * 16, size, 0, sender, meta, tuple(recipients))


def make_settings(**sections: dict[str, Any]) -> Settings:
    """Settings with short deadlines; sections as dicts."""
    delivery = {"connect_seconds": 2, "command_seconds": 2, "data_seconds": 2, "helo": "here.test", **sections.pop("delivery", {})}
    return Settings(hostname="here.test", delivery=Delivery(**delivery), **sections)


async def outcomes_of(transport: SmtpTransport, job: Job) -> Sequence[Any]:
    """Deliver one job."""
    (result,) = await transport.deliver(job.recipients[0].route.destination, [job])
    return result.outcomes
