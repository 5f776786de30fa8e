"""Submitting to the queue: headers, line ends, limits, refusals."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gatepost.message.envelope import Envelope, Origin, Recipient
from gatepost.message.reply import SmtpError
from gatepost.queue.submit import SubmissionRefused
from support.queue_lab import QueueLab

FULL = b"Date: Sun, 1 Nov 2026 10:00:00 +0000\r\nMessage-ID: <1@x>\r\nSubject: x\r\n\r\nbody\r\n"


async def stored(lab: QueueLab, message_id: bytes) -> bytes:
    reader = lab.service.open(message_id)
    return b"".join(iter(lambda: reader.read(65536), b""))


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def test_a_complete_message_gets_a_trace_field_and_nothing_else(tmp_path: Path) -> None:
    async with QueueLab(tmp_path, start=False) as lab:
        data = await stored(lab, await lab.submit("bob@here.test", body=FULL))
        assert data.startswith(b"Received: by mail.here.test with GRPC id ")
        assert data.endswith(FULL)
        assert data.count(b"Date:") == 1
        assert data.count(b"Message-ID:") == 1


async def test_missing_date_and_message_id_are_added(tmp_path: Path) -> None:
    async with QueueLab(tmp_path, start=False) as lab:
        data = await stored(lab, await lab.submit("bob@here.test", body=b"Subject: x\n\nbody"))
        head, _, body = data.partition(b"\r\n\r\n")
        assert b"\r\nDate: " in head
        assert b"\r\nMessage-ID: <" in head
        assert head.endswith(b"Subject: x")
        assert body == b"body\r\n"


async def test_a_text_without_a_header_does_not_run_into_ours(tmp_path: Path) -> None:
    async with QueueLab(tmp_path, start=False) as lab:
        for text in (b"just words\r\nmore: words\r\n", b"", b"\r\nbody\r\n"):
            data = await stored(lab, await lab.submit("bob@here.test", body=text))
            head, _, body = data.partition(b"\r\n\r\n")
            assert b"words" not in head
            assert body.lstrip(b"\r\n") == text.lstrip(b"\r\n")


@pytest.mark.parametrize(
    "parts", [(b"Subject: x\r", b"\n\r\n", b"a\r", b"b\n", b"c\r"), (b"Subject: x\n\na\nb\nc\n",), (b"Subject: x\r\ra\rb\rc",)]
)
async def test_every_kind_of_line_end_becomes_crlf(tmp_path: Path, parts: tuple[bytes, ...]) -> None:
    async with QueueLab(tmp_path, start=False) as lab:
        data = await stored(lab, await lab.submit("bob@here.test", body=pieces(*parts)))
        assert data.endswith(b"Subject: x\r\n\r\na\r\nb\r\nc\r\n")


async def test_a_message_beyond_the_limit_leaves_nothing_behind(tmp_path: Path) -> None:
    async with QueueLab(tmp_path, start=False) as lab:
        smaller = lab.settings.smtp.model_copy(update={"max_message_bytes": 100_000})
        lab.settings = lab.settings.model_copy(update={"smtp": smaller})
        with pytest.raises(SmtpError) as caught:
            await lab.submit("bob@here.test", body=pieces(FULL, *[b"x" * 60_000 + b"\r\n"] * 3))
        assert caught.value.reply.code == 552
        assert lab.spool.stats()["messages"] == 0


async def test_a_stream_that_breaks_off_leaves_nothing_behind(tmp_path: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield FULL
        raise ConnectionError("gone")

    async with QueueLab(tmp_path, start=False) as lab:
        with pytest.raises(ConnectionError):
            await lab.submit("bob@here.test", body=broken())
        assert lab.spool.stats()["messages"] == 0


async def test_refused_recipients_are_named_and_the_others_get_the_message(tmp_path: Path) -> None:
    async with QueueLab(tmp_path, start=False) as lab:
        envelope = Envelope("alice@here.test", (Recipient("nobody@here.test"), Recipient("bob@here.test")), Origin("GRPC"))
        done = await lab.submitter.submit(envelope, FULL, trusted=True)
        assert [(address, reply.code) for address, reply in done.refused] == [("nobody@here.test", 550)]
        assert done.size == len(FULL)
        message = await lab.service.get(done.message_id)
        assert [one.address for one in message.recipients] == ["bob@here.test"]
        assert message.meta.rule_version == 7


async def test_nobody_left_is_a_refusal(tmp_path: Path) -> None:
    async with QueueLab(tmp_path, start=False) as lab:
        with pytest.raises(SubmissionRefused) as caught:
            await lab.submit("nobody@here.test", "none@here.test")
        assert [address for address, _ in caught.value.refused] == ["nobody@here.test", "none@here.test"]


async def test_an_untrusted_submitter_may_not_relay(tmp_path: Path) -> None:
    async with QueueLab(tmp_path, start=False) as lab:
        envelope = Envelope("alice@here.test", (Recipient("far@away.test"),), Origin("GRPC"))
        with pytest.raises(SubmissionRefused):
            await lab.submitter.submit(envelope, FULL, trusted=False)
