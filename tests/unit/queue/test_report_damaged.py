"""A message that cannot be read back is reported all the same."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from gatepost.message.envelope import Meta, Origin
from gatepost.native import DamagedError, Reader
from gatepost.queue.report import Action, RecipientReport, Report, Reporter, Subject


class _Submitter:
    def __init__(self) -> None:
        self.taken: list[bytes] = []

    async def submit(self, envelope: object, message: bytes, *, trusted: bool) -> None:
        self.taken.append(message)


class _Broken:
    def header(self, limit: int) -> bytes:
        raise DamagedError("00000001.seg:144: checksum does not match")


def test_a_failure_of_a_damaged_message_is_told_without_the_original() -> None:
    submitter = _Submitter()
    built: list[Report] = []

    def build(report: Report) -> bytes:
        built.append(report)
        return b"report"

    reporter = Reporter(
        lambda _: cast(Reader, _Broken()), cast(Any, submitter), build, cast(Any, lambda: SimpleNamespace(hostname="mx.test"))
    )
    subject = Subject(b"\0" * 16, 1 << 30, 1, "a@b.test", Meta(Origin("ESMTP")))
    row = RecipientReport("c@d.test", "", Action.FAILED, "5.4.7", "too old")
    assert asyncio.run(reporter.send(subject, [row], 2))
    assert (built[0].original, built[0].full, submitter.taken) == (b"", False, [b"report"])
