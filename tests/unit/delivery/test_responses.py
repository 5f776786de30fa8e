"""To what an automatic answer is given, and what it looks like."""

from email import message_from_bytes, policy
from email.message import EmailMessage

import pytest

from gatepost.delivery.responses import Answer, build_answer, why_not
from gatepost.message.fields import HeaderView

ANSWER = Answer("info@here.test", "We are closed.\n", name="Info Desk")


def header(fields: str) -> HeaderView:
    return HeaderView(f"{fields}\r\n\r\n".encode())


def built(fields: str, answer: Answer = ANSWER, sender: str = "alice@far.test") -> EmailMessage:
    message = message_from_bytes(build_answer(header(fields), sender, answer), policy=policy.default)
    assert isinstance(message, EmailMessage)
    return message


def test_a_letter_of_a_person_is_answered() -> None:
    for fields in ("To: info@here.test", "Cc: x@y.test, Info <INFO@Here.test>", "To: info@here.test\r\nAuto-Submitted: no"):
        assert why_not(header(fields), "alice@far.test", ["info@here.test"]) == ""


def test_the_address_the_message_came_by_counts_as_well() -> None:
    assert why_not(header("To: old@here.test"), "alice@far.test", ["info@here.test", "old@here.test"]) == ""
    assert why_not(header("To: other@here.test"), "alice@far.test", ["info@here.test"])


@pytest.mark.parametrize(
    "sender",
    [
        "",
        "not an address",
        "MAILER-DAEMON@far.test",
        "list-request@far.test",
        "owner-list@far.test",
        "list-bounces+x=y@far.test",
        "noreply@far.test",
        "no-reply+1@far.test",
        "SRS0=ABCD=EF=x.test=alice@far.test",
        "info@HERE.test",
    ],
)
def test_senders_that_are_no_person_get_no_answer(sender: str) -> None:
    assert why_not(header("To: info@here.test"), sender, ["info@here.test"])


@pytest.mark.parametrize(
    "field",
    [
        "Auto-Submitted: auto-replied",
        "Auto-Submitted: auto-generated; type=x",
        "Precedence: bulk",
        "Precedence: List",
        "List-Id: <x.y>",
        "List-Unsubscribe: <mailto:x@y.test>",
        "X-Auto-Response-Suppress: DR, OOF",
    ],
)
def test_what_programs_and_lists_send_gets_no_answer(field: str) -> None:
    assert why_not(header(f"To: info@here.test\r\n{field}"), "alice@far.test", ["info@here.test"])


def test_an_answer_says_that_it_is_one_and_to_what() -> None:
    message = built("Subject: hello\r\nMessage-ID: <1@far.test>\r\nReferences: <a@x> <b@x>")
    assert message["From"] == "Info Desk <info@here.test>"
    assert message["To"] == "alice@far.test"
    assert message["Subject"] == "Auto: hello"
    assert message["Auto-Submitted"] == "auto-replied"
    assert message["In-Reply-To"] == "<1@far.test>"
    assert message["References"] == "<a@x> <b@x> <1@far.test>"
    assert message.get_content().strip() == "We are closed."


def test_an_answer_in_any_script_is_encoded() -> None:
    answer = Answer("info@here.test", "Grüße\n", "<p>Grüße</p>", "Geschlossen – später", "Größe")
    octets = build_answer(header("Subject: x"), "alice@far.test", answer)
    assert octets.isascii()
    message = built("Subject: x", answer)
    assert message["Subject"] == "Geschlossen – später"
    assert [part.get_content().strip() for part in message.iter_parts()] == ["Grüße", "<p>Grüße</p>"]


def test_an_html_text_alone_is_a_html_message() -> None:
    assert built("", Answer("info@here.test", "", "<p>x</p>")).get_content_type() == "text/html"


@pytest.mark.parametrize(
    "fields",
    ["Subject: =?utf-8?q?a=0D=0ABcc:_victim@far.test?=", "Message-ID: no", "Subject: " + "x" * 5000, "References: " + "<a@b> " * 500],
)
def test_nothing_in_a_message_adds_to_the_answer(fields: str) -> None:
    message = built(fields)
    assert "Bcc" not in message
    assert len(message["Subject"]) <= 210 and len(str(message["References"] or "")) < 400


@pytest.mark.parametrize("sender", ['"a b"@far.test', "o'n+x@far.test"])
def test_any_return_path_is_written_to(sender: str) -> None:
    assert sender in str(built("Subject: x", sender=sender)["To"])
