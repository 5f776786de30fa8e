"""Trace fields and the fields submission adds."""

import email.utils
import locale
import time

import pytest

from gatepost.message.envelope import Origin
from gatepost.policy.received import address_literal, current_date, format_date, missing_fields, protocol_name, received_field


@pytest.mark.parametrize(
    ("facts", "name"),
    [
        ((False, False, False, False, False), "SMTP"),
        ((False, True, False, False, False), "ESMTP"),
        ((False, True, True, False, False), "ESMTPS"),
        ((False, True, False, True, False), "ESMTPA"),
        ((False, True, True, True, False), "ESMTPSA"),
        ((False, True, True, True, True), "UTF8SMTPSA"),
        ((True, True, False, False, False), "LMTP"),
        ((True, True, True, False, True), "UTF8LMTPS"),
    ],
)
def test_the_with_keyword_follows_rfc_3848_and_6531(facts: tuple[bool, ...], name: str) -> None:
    lmtp, extended, tls, authenticated, utf8 = facts
    assert protocol_name(lmtp=lmtp, extended=extended, tls=tls, authenticated=authenticated, utf8=utf8) == name


def test_dates_are_rfc_5322_whatever_the_locale() -> None:
    for second in (0, 951_782_400, 1_763_800_000):
        parsed = email.utils.parsedate_to_datetime(format_date(second))
        assert int(parsed.timestamp()) == second
    assert locale.getlocale() is not None
    assert abs(email.utils.parsedate_to_datetime(current_date()).timestamp() - time.time()) < 2


def test_address_literals() -> None:
    assert address_literal("192.0.2.1") == "[192.0.2.1]"
    assert address_literal("2001:db8::1") == "[IPv6:2001:db8::1]"


def test_the_received_field_is_folded_and_ends_with_crlf() -> None:
    origin = Origin("ESMTPS", "2001:db8::1", 1, "client", "", "TLSv1.3 TLS_AES_256_GCM_SHA384")
    field = received_field(origin, by="mx.test", message_id="id-1", recipient="a@b")
    lines = field.split(b"\r\n")
    assert lines[0] == b"Received: from client ([IPv6:2001:db8::1])"
    assert lines[1:4] == [b"\tby mx.test with ESMTPS id id-1", b"\tfor <a@b>", b"\ttls TLS_AES_256_GCM_SHA384;"]
    assert lines[-1] == b""
    assert all(line.startswith(b"\t") for line in lines[1:-1])


def test_only_missing_fields_are_added() -> None:
    assert missing_fields(b"Date: x\r\nMessage-Id: <y>\r\n", message_id="1", host="h") == b""
    assert missing_fields(b"Date: x\r\n", message_id="1", host="h") == b"Message-ID: <1@h>\r\n"
    assert missing_fields(b"X-Date: x\r\n", message_id="1", host="h").startswith(b"Date: ")
