"""Arguments of SMTP commands: what each becomes, and which reply a bad one carries."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepost.message.envelope import Notify
from gatepost.message.reply import SmtpError
from gatepost.protocol.smtp.grammar import (
    MailParameters,
    RcptParameters,
    decode_argument,
    decode_xtext,
    parse_bdat,
    parse_helo,
    parse_mail_parameters,
    parse_mailbox,
    parse_rcpt_parameters,
    split_path,
)


@pytest.mark.parametrize(
    ("argument", "path", "rest"),
    [
        ("FROM:<a@b>", "a@b", ""),
        ("from: <a@b>  SIZE=1", "a@b", "SIZE=1"),
        ("FROM:<>", "", ""),
        ("FROM:<@x,@y:a@b>", "a@b", ""),
        ('FROM:<"a>b"@c> X', '"a>b"@c', "X"),
        ('FROM:<"a\\"> b"@c>', '"a\\"> b"@c', ""),
        ('FROM:<@x:"a:b"@c>', '"a:b"@c', ""),
    ],
)
def test_a_path_comes_apart_from_its_parameters(argument: str, path: str, rest: str) -> None:
    assert split_path(argument, "FROM:") == (path, rest)


@pytest.mark.parametrize("argument", ["", "TO:<a@b>", "FROM:a@b", "FROM:<a@b", 'FROM:<"a@b>', "FROM:<a@b>X", "FROM:<@a:>b", "FROM"])
def test_a_path_that_is_none_is_a_syntax_error(argument: str) -> None:
    with pytest.raises(SmtpError) as caught:
        split_path(argument, "FROM:")
    assert caught.value.reply.code == 501


def test_sender_and_recipient_faults_have_their_own_enhanced_codes() -> None:
    with pytest.raises(SmtpError) as caught:
        parse_mailbox("a b", "sender")
    assert (caught.value.reply.code, caught.value.reply.enhanced) == (553, "5.1.7")
    with pytest.raises(SmtpError) as caught:
        parse_mailbox("a b", "recipient")
    assert caught.value.reply.enhanced == "5.1.3"


def test_mail_parameters_are_read_in_any_case_and_order() -> None:
    found = parse_mail_parameters("ret=full BODY=8bitmime Size=12 SMTPUTF8 ENVID=a+2Bb AUTH=e+3Dmc2@example.com")
    assert found == MailParameters(12, "8BITMIME", True, "FULL", "a+b")
    assert parse_mail_parameters("") == MailParameters()


def test_rcpt_parameters_are_decoded() -> None:
    assert parse_rcpt_parameters("NOTIFY=delay,Failure ORCPT=RFC822;a+3Db@c") == RcptParameters(
        Notify.DELAY | Notify.FAILURE, "rfc822;a=b@c"
    )
    assert parse_rcpt_parameters("ORCPT=utf-8;\\x{FC}@c").orcpt == "utf-8;ü@c"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("SIZE=-1", 501),
        ("SIZE=" + "9" * 21, 501),
        ("SIZE=٣", 501),
        ("BODY", 501),
        ("X=1", 555),
        ("XY", 555),
        ("A=b=c", 501),
        ("ENVID=" + "x" * 101, 501),
        ("ENVID=a+2b", 501),
        ("ENVID=+FF", 501),
        ("RET=", 501),
        ("AUTH", 501),
        ("SMTPUTF8 SMTPUTF8", 501),
        (" ".join(f"P{n}=1" for n in range(17)), 501),
    ],
)
def test_bad_mail_parameters_are_refused_with_the_right_code(text: str, code: int) -> None:
    with pytest.raises(SmtpError) as caught:
        parse_mail_parameters(text)
    assert caught.value.reply.code == code


@pytest.mark.parametrize(
    "text",
    [
        "NOTIFY",
        "NOTIFY=,",
        "NOTIFY=NEVER,DELAY",
        "ORCPT=;a",
        "ORCPT=rfc822;",
        "ORCPT=utf-8;\\x{110000}",
        "ORCPT=utf-8;\\x{D800}",
        "ORCPT=utf-8;\\x{0A}",
        "ORCPT=rfc822;a+0Ab",
        "ORCPT=rfc822;" + "x" * 500,
    ],
)
def test_bad_rcpt_parameters_are_refused(text: str) -> None:
    with pytest.raises(SmtpError) as caught:
        parse_rcpt_parameters(text)
    assert caught.value.reply.code == 501


def test_helo_names_are_lenient_but_fit_for_a_header_field() -> None:
    for name in ("client.test", "my_pc", "[127.0.0.1]", "[IPv6:::1]", "x"):
        assert parse_helo(f" {name} ") == name
    for name in ("", "a b", "a(b)", "a\rb", "a\tb", "<a>", "bücher.test", "x" * 256, 'a"b'):
        with pytest.raises(SmtpError):
            parse_helo(name)


def test_bdat_sizes() -> None:
    assert parse_bdat("0 last") == (0, True)
    assert parse_bdat("86401") == (86401, False)
    for text in ("", "-1", "1 2", "1 LAST x", "0x10", "²", "9" * 21):
        with pytest.raises(SmtpError):
            parse_bdat(text)


def test_octets_that_are_not_utf8_are_refused() -> None:
    assert decode_argument("ü".encode()) == "ü"
    with pytest.raises(SmtpError):
        decode_argument(b"\xff")


@given(st.text(max_size=200))
def test_any_argument_gives_a_value_or_an_smtp_error(text: str) -> None:
    codes: set[int] = set()
    for run in (
        lambda: split_path("TO:" + text, "TO:"),
        lambda: split_path("TO:<" + text + ">", "TO:"),
        lambda: parse_mail_parameters(text),
        lambda: parse_mail_parameters("ENVID=" + text),
        lambda: parse_rcpt_parameters(text),
        lambda: parse_rcpt_parameters("ORCPT=utf-8;" + text),
        lambda: parse_rcpt_parameters("ORCPT=rfc822;" + text),
        lambda: parse_helo(text),
        lambda: parse_bdat(text),
        lambda: decode_xtext("X", text),
        lambda: parse_mailbox(text, "sender"),
    ):
        try:
            run()
        except SmtpError as error:
            codes.add(error.reply.code)
    assert codes <= {501, 552, 553, 555}
