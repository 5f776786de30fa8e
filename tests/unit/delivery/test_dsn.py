"""Reports, read back with Python's email package."""

import email
import email.policy
from dataclasses import replace
from email.message import EmailMessage
from typing import cast

import pytest

from gatepost.delivery.dsn import build_report
from gatepost.message.reply import RemoteReply
from gatepost.queue.report import Action, RecipientReport, Report

REPLY = RemoteReply(550, "5.1.1", "no such user", "mx.peer.test[192.0.2.1]:25", "RCPT")
FAILURE = RecipientReport(
    "bob@peer.test", "rfc822;robert@peer.test", Action.FAILED, "5.1.1", "mx.peer.test said: 550 no such user", REPLY, 1_700_000_000_000_000
)
REPORT = Report(
    message_id=b"\x01" * 16,
    key="0101.failed.1",
    sender="alice@here.test",
    hostname="mail.here.test",
    envid="QQ314159",
    received_at=1_699_999_000_000_000,
    now=1_700_000_000_000_000,
    recipients=(FAILURE,),
    original=b"Subject: hello\r\nFrom: alice@here.test\r\n\r\nbody\r\n",
    full=False,
    utf8=False,
)


def parsed(report: Report) -> EmailMessage:
    return cast(EmailMessage, email.message_from_bytes(build_report(report), policy=email.policy.default))


def groups(report: Report) -> list[EmailMessage]:
    """Field groups of the delivery-status part."""
    text = build_report(report).partition(b"delivery-status\r\n")[2].partition(b"\r\n\r\n")[2].partition(b"\r\n--=_")[0]
    return [
        cast(EmailMessage, email.message_from_bytes(group + b"\r\n", policy=email.policy.default))
        for group in text.split(b"\r\n\r\n")
        if group.strip()
    ]


def test_a_failure_report_has_three_parts_and_the_right_header() -> None:
    message = parsed(REPORT)
    assert message.get_content_type() == "multipart/report"
    assert message.get_param("report-type") == "delivery-status"
    kinds = [part.get_content_type() for part in message.iter_parts()]
    assert kinds == ["text/plain", "message/delivery-status", "text/rfc822-headers"]
    assert message["To"] == "alice@here.test"
    assert message["Auto-Submitted"] == "auto-replied"
    assert "MAILER-DAEMON@mail.here.test" in message["From"]
    assert message["Message-ID"] == "<0101.failed.1@mail.here.test>"


def test_the_machine_part_says_what_rfc_3464_asks_for() -> None:
    per_message, recipient = groups(REPORT)
    assert per_message["Original-Envelope-Id"] == "QQ314159"
    assert per_message["Reporting-MTA"] == "dns; mail.here.test"
    assert recipient["Original-Recipient"] == "rfc822; robert@peer.test"
    assert recipient["Final-Recipient"] == "rfc822; bob@peer.test"
    assert recipient["Action"] == "failed"
    assert recipient["Status"] == "5.1.1"
    assert recipient["Remote-MTA"] == "dns; mx.peer.test"
    assert recipient["Diagnostic-Code"] == "smtp; 550 5.1.1 no such user"
    assert recipient["Last-Attempt-Date"]


def test_headers_only_or_the_whole_message_is_returned() -> None:
    raw = build_report(REPORT)
    assert b"Subject: hello\r\nFrom: alice@here.test\r\n" in raw
    assert b"body" not in raw.partition(b"text/rfc822-headers")[2]
    full = parsed(replace(REPORT, full=True))
    original = list(full.iter_parts())[2]
    assert original.get_content_type() == "message/rfc822"
    assert original.get_content().get_content().strip() == "body"


def test_a_delay_notice_says_until_when() -> None:
    delayed = replace(FAILURE, action=Action.DELAYED, status="4.4.1", will_retry_until=1_700_400_000_000_000)
    report = replace(REPORT, recipients=(delayed,))
    assert groups(report)[1]["Will-Retry-Until"]
    assert groups(report)[1]["Action"] == "delayed"
    assert "DO NOT NEED TO SEND IT AGAIN" in str(next(iter(parsed(report).iter_parts())))


@pytest.mark.parametrize("action", [Action.DELIVERED, Action.RELAYED])
def test_success_reports_are_distinguished(action: Action) -> None:
    report = replace(REPORT, recipients=(replace(FAILURE, action=action, status="2.0.0", reason=""),))
    assert groups(report)[1]["Action"] == action


def test_addresses_beyond_ascii_use_the_utf8_types() -> None:
    report = replace(REPORT, utf8=True, sender="ä@here.test", recipients=(replace(FAILURE, address="ü@peer.test"),))
    raw = build_report(report)
    assert b"Content-Type: message/global-delivery-status" in raw
    assert b"Content-Type: message/global-headers" in raw
    assert "Final-Recipient: utf-8; ü@peer.test".encode() in raw
    assert b"Content-Transfer-Encoding: 8bit\r\n\r\n" in raw


def test_nothing_can_break_out_of_a_field() -> None:
    nasty = "x\r\nInjected: yes\r\n\r\n--=_0101.failed.1"
    report = replace(REPORT, envid=nasty, recipients=(replace(FAILURE, address=nasty, orcpt=nasty, reason=nasty),))
    raw = build_report(report)
    assert b"\r\nInjected" not in raw
    assert len(list(parsed(report).iter_parts())) == 3
    assert all(len(line) <= 998 for line in raw.split(b"\r\n"))
    assert b"\n" not in raw.replace(b"\r\n", b"")


def test_the_same_report_gives_the_same_octets_and_many_recipients_are_all_in_the_machine_part() -> None:
    report = replace(REPORT, recipients=tuple(replace(FAILURE, address=f"u{n}@peer.test") for n in range(200)))
    assert build_report(report) == build_report(report)
    assert build_report(report).count(b"Final-Recipient:") == 200
    assert b"150 more" in build_report(report)


def test_a_message_with_our_boundary_in_it_comes_back_whole() -> None:
    report = replace(REPORT, full=True, original=b"Subject: x\r\n\r\n--=_0101.failed.1\r\nfake\r\n")
    assert len(list(parsed(report).iter_parts())) == 3
