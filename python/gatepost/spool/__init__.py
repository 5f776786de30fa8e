"""The spool for asyncio: one partition of the queue, opened by one process.

Callers: server/ and queue/submit commit messages, queue/ takes jobs and journals what became of them, control/ reads.
What it keeps and how it fails stands in `facade`; `replies` maps each failure to its SMTP answer.
"""

from gatepost.spool.facade import AsyncSpool, PlannedRecipient
from gatepost.spool.replies import reply_for

__all__ = ["AsyncSpool", "PlannedRecipient", "reply_for"]
