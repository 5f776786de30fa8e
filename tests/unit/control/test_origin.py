"""Explain asks the DNS where the mail of a question comes from, as live mail does."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from gatepost.control.explain import Answer, Asked, answer
from gatepost.control.origin import Origins
from gatepost.routing.model import DomainRule, RuleKind, RuleSet
from gatepost.routing.stages import Stage, StageAction, StagePolicy
from support.delivery import make_settings
from support.dkim import Signer
from support.dns import DnsStub, txt

SIGNER = Signer()
MAIL = b"From: a@far.test\nTo: b@near.test\nSubject: x\nDate: Mon, 1 Jan 2024 00:00:00 +0000\n\nbody\n".replace(b"\n", b"\r\n")
ZONE = {
    ("far.test", "TXT"): [txt("v=spf1 ip4:192.0.2.1 -all")],
    ("_dmarc.far.test", "TXT"): [txt("v=DMARC1; p=reject")],
    (SIGNER.key_name, "TXT"): [txt(SIGNER.key_record())],
}
AT_MAIL = StagePolicy(name="spf", stage=Stage.MAIL, when="auth.spf == 'fail' && sender.domain == 'spf.test'", action=StageAction.REJECT)
AT_DATA = StagePolicy(name="dmarc", stage=Stage.DATA, when="auth.dmarc == 'fail'", action=StageAction.REJECT)


@pytest.fixture(scope="module")
def stub() -> Iterator[DnsStub]:
    with DnsStub(ZONE) as server:
        yield server


async def explained(stub: DnsStub, *, verify: str = "when needed", **asked: Any) -> Answer:
    stub.use(ZONE)
    settings = make_settings(dns={"nameservers": ["127.0.0.1"], "port": stub.port}, authentication={"verify": verify})
    rules = RuleSet(
        1,
        {"near.test": DomainRule("near.test", RuleKind.GATEWAY, host="192.0.2.80", accept_untrusted=True)},
        {},
        stage_policies=(AT_MAIL, AT_DATA),
    )
    question = Asked(**{"sender": "a@far.test", "recipient": "b@near.test", "client_address": "192.0.2.9", **asked})
    return answer(settings, rules, replace(question, results=await Origins(lambda: settings).of(rules, question)))


def said(found: Answer) -> dict[str, str]:
    return {step.step: step.detail for step in found.trace}


async def test_a_forged_message_is_refused_as_it_would_be_live(stub: DnsStub) -> None:
    found = await explained(stub, message=MAIL)
    assert found.refused_at == "data"
    assert said(found)["authentication"] == "spf=fail far.test (all of far.test) dkim=none dmarc=fail far.test (p=reject)"


async def test_a_message_that_was_signed_passes_whatever_line_ends_its_file_has(stub: DnsStub) -> None:
    signed = SIGNER.sign(MAIL)
    for message in (signed, signed.replace(b"\r\n", b"\n")):
        found = await explained(stub, message=message)
        assert found.reply is None
        assert "dkim=pass far.test" in said(found)["authentication"]


async def test_without_a_message_only_spf_is_known(stub: DnsStub) -> None:
    found = await explained(stub, client_address="192.0.2.1")
    assert said(found)["authentication"] == "spf=pass far.test (ip4 of far.test)"
    assert "data: dmarc depends on what is not part of the question" in said(found)["policy"]


@pytest.mark.parametrize("asked", [{"assume_trusted": True}, {"client_address": ""}, {"verify": "off"}])
async def test_nobody_is_asked_about_mail_that_is_not_verified(stub: DnsStub, asked: dict[str, Any]) -> None:
    found = await explained(stub, message=MAIL, **asked)
    assert not stub.questions
    assert "authentication" not in said(found)
