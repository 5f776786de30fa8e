"""Lists the queue, holds what matches, waits for a word, releases it: from another process, with gatepost.client.

    .venv/bin/python examples/hold_and_release.py --data var --domain example.net

Over TCP instead: --server mail.example.org:2551 --token SECRET --ca-file ca.pem (a token of role operator).
Exit codes: 0 done, 1 something failed (the server's own words are printed).
"""

import argparse
import asyncio
import sys

from gatepost.client import GatepostClient, GatepostError, QueueFilter, find_target


async def hold_and_release(client: GatepostClient, domain: str, seconds: float) -> int:
    """Hold every message for `domain`, show them, and release them after `seconds`. Returns how many were held."""
    wanted = QueueFilter(domain=domain)

    preview = await client.queue.hold(wanted, dry_run=True)
    print(f"{preview.matched} messages wait for {domain}")
    if not preview.matched:
        return 0

    held = await client.queue.hold(wanted)
    async for message in client.queue.list(QueueFilter(domain=domain, held=True)):
        reasons = {recipient.last_reason for recipient in message.recipients if recipient.last_reason}
        print(f"  {message.message_id}  {message.sender or '<>'}  {message.size} octets  {'; '.join(sorted(reasons))}")

    print(f"{held.changed} held; nothing goes to {domain} for {seconds:g} s")
    await asyncio.sleep(seconds)

    # By id, so that messages somebody else held meanwhile stay as they are. An id that has left the queue would be NotFoundError;
    # held messages do not leave.
    released = await client.queue.release(held.message_ids)
    print(f"{released.changed} released")
    return held.changed


async def main() -> int:
    """Parse the command line, connect, run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="data directory of a server on this machine")
    parser.add_argument("--server", default="", help="host:port of a server elsewhere")
    parser.add_argument("--token", default="")
    parser.add_argument("--ca-file")
    parser.add_argument("--domain", required=True, help="hold mail for this domain")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long (default: %(default)s)")
    options = parser.parse_args()
    try:
        target = find_target(options.data, address=options.server, token=options.token, ca_file=options.ca_file)
        async with GatepostClient(target) as client:
            await hold_and_release(client, options.domain, options.seconds)
    except GatepostError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
