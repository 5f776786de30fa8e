"""docs/rules.md: the walk from an empty server, its commands word for word, against a real server, a real Postfix and real mail.

Of the commands nothing is changed but the place of the neighbours, which the page cannot know: 10.0.0.5 is the Postfix of this test.
"""

import shlex
import smtplib
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.certificates import Authority
from support.gatepost import Gatepost
from support.postfix import Postfix
from support.processes import need, need_root, wait_until
from support.programs import message, send

PAGE = (Path(__file__).parents[2] / "docs" / "rules.md").read_text()
TLS = """\
relay_domains = partner.test
smtpd_client_restrictions = static:hold
smtpd_tls_security_level = encrypt
smtpd_tls_cert_file = {certificate}
smtpd_tls_key_file = {key}
"""


@pytest.fixture(scope="module")
def partner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postfix]:
    """It holds what it takes, and takes nothing in the clear."""
    need("postfix", "postconf")
    need_root()
    authority = Authority(tmp_path_factory.mktemp("ca"))
    authority.server_context("partner.test")
    pem = authority.directory / "partner.test.pem"
    with Postfix(TLS.format(certificate=pem, key=pem)) as one:
        yield one


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory, partner: Postfix) -> Iterator[tuple[Gatepost, dict[str, str]]]:
    """The server after the walk, and what `explain` said on it."""
    with Gatepost(tmp_path_factory.mktemp("walk"), users=()) as server:
        told: dict[str, str] = {}
        for line in PAGE.split("## From an empty server")[1].split("```console\n")[1].split("```")[0].splitlines():
            prompt, program, *words = shlex.split(line.replace("--host 10.0.0.5", f"--host 127.0.0.1 --port {partner.port}"))
            assert (prompt, program) == ("$", "gatepost")
            answer = server.cli(*words, text="hush\n" if "--password-stdin" in words else None)
            if words[0] == "explain":
                told[words[1]] = answer
        yield server, told


def messages(server: Gatepost, user: str) -> int:
    return int(next(one["messages"] for one in server.json("mailbox", "list") if one["address"] == user))


def arrives(server: Gatepost, user: str, to: str, sender: str = "stranger@far.test") -> None:
    before = messages(server, user)
    send(server.port("smtp"), message(f"to {to}", sender=sender, to=to), sender, to)
    wait_until(lambda: messages(server, user) == before + 1, 20, f"mail to {to} for {user}")


def test_explain_says_what_the_page_promises(walked: tuple[Gatepost, dict[str, str]]) -> None:
    _, told = walked
    assert "into INBOX of alice@example.org" in told["alice@example.com"]
    assert "into INBOX of bob@example.net" in told["whoever@example.net"]
    assert "team@example.org has 2 members" in told["team@example.org"]
    assert "552 5.3.4" in told["fax@example.org"]
    assert "smtp.provider.example" in told["x@elsewhere.test"]


def test_mail_takes_the_ways_that_were_set_up(walked: tuple[Gatepost, dict[str, str]], partner: Postfix) -> None:
    server, _ = walked
    arrives(server, "alice@example.org", "alice@example.com")
    arrives(server, "bob@example.net", "whoever@example.net")
    arrives(server, "alice@example.org", "team@example.org", "bob@example.net")
    arrives(server, "alice@example.org", "fax@example.org")
    send(server.port("smtp"), message("to the partner", to="x@partner.test"), recipients="x@partner.test")
    wait_until(lambda: partner.queued("hold") == 1, 20, "Postfix has the message")
    assert "to=<x@partner.test>" in partner.log()


def test_what_was_not_set_up_is_refused(walked: tuple[Gatepost, dict[str, str]]) -> None:
    server, _ = walked
    large = message("fax", to="fax@example.org", body="x" * 70 + "\n" + ("y" * 70 + "\n") * 9000)
    with pytest.raises(smtplib.SMTPException, match=r"5\.3\.4"):
        send(server.port("smtp"), large, recipients="fax@example.org")
    with pytest.raises(smtplib.SMTPRecipientsRefused, match=r"5\.7\.2"):
        send(server.port("smtp"), message("spam", to="team@example.org"), recipients="team@example.org")
    with pytest.raises(smtplib.SMTPRecipientsRefused, match=r"5\.7\.1"):
        send(server.port("smtp"), message("relay", to="x@elsewhere.test"), recipients="x@elsewhere.test")
