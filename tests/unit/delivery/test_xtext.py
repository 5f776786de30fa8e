"""DSN parameter values."""

from gatepost.delivery.xtext import encode_orcpt, encode_xtext


def test_plain_text_stays_and_unsafe_characters_are_encoded() -> None:
    assert encode_xtext("QQ314159") == "QQ314159"
    assert encode_xtext("a+b=c d") == "a+2Bb+3Dc+20d"


def test_an_ascii_orcpt_keeps_its_type() -> None:
    assert encode_orcpt("rfc822;a+b@c.test", utf8=False) == "rfc822;a+2Bb@c.test"


def test_a_utf8_orcpt_is_embedded_for_a_peer_without_smtputf8() -> None:
    assert encode_orcpt("utf-8;ü@c.test", utf8=False) == r"utf-8;\x{FC}@c.test"
    assert encode_orcpt("utf-8;ü@c.test", utf8=True) == "utf-8;ü@c.test"
