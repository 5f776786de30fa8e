"""The process that tests/crash/test_spool_kill.py kills: commits, journals and says on stdout what was acknowledged.

Lines: `A id sha256 size` committed, `D id` a change that finishes the message is on disk, `d id` such a change was asked for.
"""

import asyncio
import hashlib
import os
import random
import sys
from pathlib import Path

from gatepost.native import K_DEFERRED, K_DELIVERED, K_HELD, K_RELEASED, K_REMOVED
from gatepost.spool import AsyncSpool
from support.spool import ENVELOPE, planned


def say(*words: object) -> None:
    """One line in one write: a kill cuts between lines, never inside one."""
    os.write(1, (" ".join(str(word) for word in words) + "\n").encode())


async def client(spool: AsyncSpool, chance: random.Random) -> None:
    """Commit, defer, hold, finish: for ever."""
    live: list[bytes] = []
    while True:
        body = chance.randbytes(16).hex().encode() * chance.choice([1, 50, 300, 20_000]) + b"\r\n"
        incoming = spool.receive(b"P: x\r\n", 0)
        for start in range(0, len(body), 65_536):
            incoming.feed(body[start : start + 65_536])
            await spool.drain()
        incoming.feed(b".\r\n")
        await spool.commit(incoming, ENVELOPE, [planned("a@b"), planned("c@d", "smtp:d")], 1)
        say("A", incoming.message_id.hex(), hashlib.sha256(b"P: x\r\n" + body).hexdigest(), len(body) + 6)
        live.append(incoming.message_id)
        if len(live) > 8:
            victim = live.pop(chance.randrange(len(live)))
            await spool.change([(victim, 0, K_DEFERRED, 0, b"{}"), (victim, 1, chance.choice([K_HELD, K_RELEASED]), 0, b"{}")])
            say("d", victim.hex())
            await spool.change([(victim, -1, chance.choice([K_REMOVED, K_DELIVERED]), 0, b"{}")])
            say("D", victim.hex())


async def main() -> None:
    """Run clients until killed; a checkpoint now and then."""
    spool = await AsyncSpool.open(Path(sys.argv[1]), segment_bytes=2 << 20)
    say("R", len(spool.recovery["damaged"]))  # type: ignore[arg-type]
    chance = random.Random(int(sys.argv[2]))
    async with asyncio.TaskGroup() as group:
        for _ in range(12):
            group.create_task(client(spool, random.Random(chance.random())))
        while True:
            await asyncio.sleep(chance.random() * 0.1)
            await asyncio.to_thread(spool.native.checkpoint)


asyncio.run(main())
