"""A remote mail server for the soak: counts what it took by subject, sometimes defers, sometimes breaks the connection instead of
answering.

Runs its own event loop in a thread. One that is `closed` defers every recipient until it is opened.
"""

import asyncio
import random
import threading
from collections import Counter
from typing import Self

MAX_LINE = 1 << 20


class Sink:
    """Listens on 127.0.0.1:`port`. `received` counts copies by subject."""

    def __init__(self, seed: int, *, closed: bool = False) -> None:
        self.received: Counter[str] = Counter()
        self.closed = closed
        self.port = 0
        self._chance = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sink", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(10), "the sink did not start"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0, limit=MAX_LINE))
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        self._loop.run_forever()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._session(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()

    async def _session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        recipients = 0
        writer.write(b"220 sink\r\n")
        while line := await reader.readline():
            verb = line[:4].upper()
            if verb == b"RCPT":
                taken = not self.closed and self._chance.random() > 0.05
                recipients += taken
                writer.write(b"250 ok\r\n" if taken else b"451 4.3.0 later\r\n")
            elif verb == b"DATA" and recipients:
                writer.write(b"354 go\r\n")
                name = await self._data(reader)
                self.received[name] += recipients
                recipients = 0
                if self._chance.random() < 0.02:
                    return  # taken, but the client never hears of it
                writer.write(b"250 ok\r\n")
            elif verb == b"DATA":
                writer.write(b"503 no recipients\r\n")
            elif verb == b"QUIT":
                writer.write(b"221 bye\r\n")
                return
            else:
                recipients = 0 if verb in (b"MAIL", b"RSET", b"EHLO") else recipients
                writer.write(b"250 ok\r\n")
            await writer.drain()

    @staticmethod
    async def _data(reader: asyncio.StreamReader) -> str:
        name, header = "", True
        while (line := await reader.readline()) != b".\r\n":
            if not line:
                raise asyncio.IncompleteReadError(b"", None)
            if header and line.lower().startswith(b"subject:"):
                name = line[8:].strip().decode()
            header = header and line != b"\r\n"
        return name
