"""`gatepost explain`: the whole way of one message, asked without sending any."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gatepost.cli.output import clean, print_json, print_table
from gatepost.cli.session import USAGE, CommandError, Session

if TYPE_CHECKING:
    from gatepost.client.rulesets import MailExplanation, RouteOutlook

MAX_MESSAGE = 10 << 20


async def explain(
    session: Session,
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="The recipient")],
    sender: Annotated[str, typer.Option("--from", "--sender", metavar="ADDRESS", help="Envelope sender [the null sender]")] = "",
    client_: Annotated[str, typer.Option("--client", metavar="IP", help="Address of the client [a stranger]")] = "",
    user: Annotated[str, typer.Option("--user", help="Logged-in user")] = "",
    size: Annotated[int, typer.Option("--size", min=0, help="Size of the message in octets")] = 0,
    trusted: Annotated[bool | None, typer.Option("--trusted/--untrusted", help="Whatever client and user are")] = None,
    tls: Annotated[bool, typer.Option("--tls", help="The session is encrypted")] = False,
    certificate: Annotated[str, typer.Option("--certificate", help="The client's: sha256:HEX or subject:SUBJECT")] = "",
    helo: Annotated[str, typer.Option("--helo", metavar="NAME", help="What the client says in EHLO [not known]")] = "",
    listener: Annotated[str, typer.Option("--listener", help="smtp, submission, submissions or lmtp [not known]")] = "",
    message: Annotated[str, typer.Option("--message", metavar="FILE", help="A whole message: what attachment policies say of it")] = "",
    offline: Annotated[bool, typer.Option("--offline", help="Do not look hosts up in the DNS")] = False,
    draft: Annotated[str, typer.Option("--draft", metavar="NAME", help="By a draft instead of the rules in force")] = "",
) -> None:
    """Say what the server would do with mail for ADDRESS, and why, without sending any."""
    from gatepost.client.rulesets import source

    async with session.client() as client:
        answer = await client.rulesets.explain(
            address,
            sender=sender,
            client_address=client_,
            user=user,
            size=size,
            assume_trusted=trusted,
            tls=tls,
            certificate=certificate,
            helo=helo,
            listener=listener,
            message=_message(message),
            offline=offline,
            wanted=source(draft=draft) if draft else None,
        )
    if session.json:
        print_json(answer)
        return
    _show(address, answer)


def _message(file: str) -> bytes:
    if not file:
        return b""
    data = Path(file).read_bytes()
    if not data or len(data) > MAX_MESSAGE:
        raise CommandError(f"{file}: must have 1 to {MAX_MESSAGE:,} octets", USAGE)
    return data


def _show(address: str, answer: "MailExplanation") -> None:
    if answer.reply is not None:
        at = f" (to {answer.refused_at.upper()})" if answer.refused_at else ""
        print(f"{address} would be refused: {answer.reply.code} {answer.reply.enhanced} {clean(answer.reply.text)}{at}")
    for one in answer.outlooks if answer.reply is None else ():
        _route(address, one)
    if answer.content is not None:
        judged = answer.content
        because = f" by {judged.rule!r}: {judged.reason}" if judged.rule else ""
        print(clean(f"attachment policy {judged.policy}: {judged.action}, recipient {judged.fate}{because}"))
    if answer.size_limit:
        print(f"takes messages of {answer.size_limit:,} octets at most")
    version = f"rule set version {answer.rule_version}" if answer.rule_version else "by the draft"
    print(f"sender trusted: {'yes' if answer.trusted else 'no'}; {version}\n")
    print_table(["STEP", "WHAT WAS FOUND"], ((step.step, step.detail) for step in answer.trace))


def _route(address: str, one: "RouteOutlook") -> None:
    route, held = one.route, ", held" if one.route.hold else ""
    if route.kind == "discard":
        print(f"{address} would be thrown away{held}")
        return
    where = f"into {route.folder} of {route.address} on volume {route.volume}" if route.kind == "local" else ""
    where = where or f"to {route.address} by {route.kind.upper()}, destination {route.destination}"
    print(f"{address} would go {clean(where)}{held}")
    if one.at_delivery:
        print(f"    at the first attempt: {clean(', '.join(one.at_delivery))}")
    if not one.tls:
        return
    if one.no_host:
        print(f"    no host: {clean(one.no_host)} ({'returned to the sender' if one.no_host_is_final else 'tried again later'})")
    elif one.hosts:
        print(f"    tried at {clean(', '.join(one.hosts))}")
    if one.dkim_key:
        print(f"    DKIM key: {clean(one.dkim_key)}")
    login = f", as {clean(route.username)}" if route.username else ""
    print(f"    TLS: {clean(one.tls)}{login}")
    rate = f", {one.rate_per_minute} a minute" if one.rate_per_minute else ""
    bound = f" from {clean(one.source_address)}" if one.source_address else ""
    print(f"    {one.concurrency} at once, {one.messages_per_connection} over a connection{rate}; greets as {clean(one.helo)}{bound}")
    waits = ", ".join(_span(wait) for wait in one.retry_waits)
    notice = f", sender told of a delay after {_span(one.delay_notice)}" if one.delay_notice else ""
    print(f"    tried again after {waits} …; given up after {_span(one.expire)}{notice}")


def _span(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"
