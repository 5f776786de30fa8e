"""What a list does to the header of a post, read back by the standard library."""

from email import message_from_bytes, policy
from email.message import EmailMessage

from gatepost.delivery.list_fields import ListLook, came_through, list_edits
from gatepost.message.fields import HeaderView

LOOK = ListLook("team@here.test", "The Team", "[team]", "list", "boss@here.test", "https://here.test/u", "https://here.test/h")


def post(fields: bytes, look: ListLook = LOOK) -> EmailMessage:
    header = b"From: a@x.test\r\n" + fields + b"\r\n"
    out, at = b"", 0
    for start, end, with_ in sorted(list_edits(HeaderView(header), look), key=lambda edit: edit[:2]):
        assert start >= at
        out, at = out + header[at:start] + with_, end
    message = message_from_bytes(out + header[at:] + b"body\r\n", policy=policy.default)
    assert isinstance(message, EmailMessage) and not message.defects
    assert message.get_content() == "body\r\n" or message.get_content() == "body\n"
    return message


def test_a_post_carries_the_fields_of_its_list_once() -> None:
    message = post(b"List-Id: <other.list>\r\nList-Unsubscribe: <mailto:x@other.test>,\r\n <https://o>\r\nSender: me@x.test\r\n")
    assert message.get_all("List-Id") == ["The Team <team.here.test>"]
    assert message.get_all("List-Unsubscribe") == ["<https://here.test/u>"]
    assert message["List-Post"] == "<mailto:team@here.test>"
    assert message["List-Help"] == "<https://here.test/h>"
    assert message["List-Owner"] == "<mailto:boss@here.test>"
    assert message["Precedence"] == "list"
    assert message.get_all("Sender") == ["team-bounces@here.test"]


def test_replies_go_where_the_list_says() -> None:
    assert post(b"Reply-To: me@x.test\r\n")["Reply-To"] == "The Team <team@here.test>"
    to_sender = ListLook("team@here.test", reply_to="sender")
    assert post(b"Reply-To: me@x.test\r\n", to_sender)["Reply-To"] == "me@x.test"
    elsewhere = ListLook("team@here.test", reply_to="desk@here.test")
    assert post(b"", elsewhere)["Reply-To"] == "desk@here.test"


def test_the_subject_is_tagged_once_in_any_encoding() -> None:
    assert post(b"Subject: hello\r\n")["Subject"] == "[team] hello"
    assert post(b"Subject:hello\r\n")["Subject"] == "[team] hello"
    assert post(b"Subject: Re: [TEAM] hello\r\n")["Subject"] == "Re: [TEAM] hello"
    assert post(b"Subject: =?utf-8?b?W3RlYW1dIGdyw7zDn2U=?=\r\n")["Subject"] == "[team] grüße"
    assert post(b"Subject: =?utf-8?q?gr=C3=BC=C3=9Fe?=\r\n")["Subject"] == "[team] grüße"
    assert post(b"")["Subject"] == "[team]"
    umlaut = ListLook("team@here.test", subject_tag="[Grüße]")
    assert post(b"Subject: hello\r\n", umlaut)["Subject"] == "[Grüße] hello"


def test_a_setting_cannot_add_a_field() -> None:
    evil = ListLook("team@here.test", "x\r\nBcc: victim@far.test", "[a\r\nX-Evil: 1]", help_url="https://h\r\n\r\nbody")
    message = post(b"Subject: hello\r\n", evil)
    assert "Bcc" not in message and "X-Evil" not in message


def test_a_post_that_came_through_the_list_before_is_known() -> None:
    assert came_through(HeaderView(b"list-id: T <Team.Here.test>\r\n\r\n"), "team@here.test")
    assert not came_through(HeaderView(b"List-Id: <other.here.test>\r\n\r\n"), "team@here.test")


def test_a_name_with_special_characters_is_quoted_or_encoded() -> None:
    assert 'List-Id: "A, \\"B\\"" <team.here.test>' in str(post(b"", ListLook("team@here.test", 'A, "B"')))
    assert "=?utf-8?" in str(post(b"", ListLook("team@here.test", "Größe")))
