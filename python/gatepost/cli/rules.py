"""`gatepost domain | rule | handler`: what happens to mail."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gatepost.cli.output import clean, local_time, print_fields, print_json, print_table
from gatepost.cli.rule_options import HANDLER_OPTIONS, RULE_SETTINGS, handler_options, rule_settings
from gatepost.cli.session import USAGE, CommandError, Options, Session, command, confirm, group, saved

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gatepost.client.values import DomainRule, Handler

domain_app = group("Domains whose mailboxes are here.")
rule_app = group("Domain rules: hosted, gateway, mx, reject, discard, hold, alias.")
handler_app = group("Address handlers: mailboxes, forward, copy, list, transport … A handler beats the rule of its domain.")

Name = Annotated[str, typer.Argument(metavar="DOMAIN", help="example.org, *.example.org or *")]
Etag = Annotated[str, typer.Option("--etag", help="Only if it is still this version, as `show --json` gave it")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask")]
Force = Annotated[bool, typer.Option("--force", help="Also when it has users, which are removed (their mail is kept)")]


@command(domain_app, "add")
async def domain_add(session: Session, name: Name) -> None:
    """Host a domain here: the same as `rule add DOMAIN --kind hosted`."""
    from gatepost.client import DomainRule

    async with session.client() as client:
        rule = await client.rules.create(DomainRule(name, "hosted"))
    session.done(rule, f"{rule.domain} is hosted here; add its users with gatepost user add NAME@{rule.domain}")


@command(domain_app, "list")
async def domain_list(session: Session) -> None:
    """List hosted domains."""
    async with session.client() as client:
        rules = [rule async for rule in client.rules.list("hosted")]
        users = [user async for user in client.directory.list_users()]
    if session.json:
        print_json([{"domain": rule.domain, "users": _users_of(rule.domain, users), "handlers": len(rule.handlers)} for rule in rules])
        return
    rows = ((rule.domain, str(_users_of(rule.domain, users)), str(len(rule.handlers))) for rule in rules)
    print_table(["!DOMAIN", ">USERS", ">HANDLERS"], rows, empty="no hosted domains")


def _users_of(domain: str, users: list[Any]) -> int:
    return sum(user.address.rpartition("@")[2] == domain for user in users)


@command(domain_app, "show")
async def domain_show(session: Session, name: Name) -> None:
    """Show a domain: its rule, users and handlers."""
    async with session.client() as client:
        rule = await client.rules.get(name)
        users = [user async for user in client.directory.list_users(rule.domain)]
    if session.json:
        print_json({"rule": rule, "users": users})
        return
    _show_rule(rule)
    print("\nUSERS")
    for user in users:
        print(f"  {clean(user.address)}{'' if user.enabled else '  disabled'}")


@command(domain_app, "remove")
async def domain_remove(session: Session, name: Name, etag: Etag = "", force: Force = False, yes: Yes = False) -> None:
    """Stop hosting a domain."""
    await _remove_rule(session, name, etag, force=force, yes=yes)


RULE: Options = {
    "host": (Annotated[str | None, typer.Option("--host", help="gateway: host name or address")], None),
    "port": (Annotated[int | None, typer.Option("--port", min=1, max=65535, help="gateway: port [25; 24 LMTP; 465 implicit TLS]")], None),
    "tls": (Annotated[str | None, typer.Option("--tls", help="gateway, mx: none, opportunistic, required, verified or pinned")], None),
    "implicit_tls": (Annotated[bool | None, typer.Option("--implicit-tls/--no-implicit-tls", help="gateway: TLS from the start")], None),
    "lmtp": (Annotated[bool | None, typer.Option("--lmtp/--no-lmtp", help="gateway: speak LMTP")], None),
    "username": (Annotated[str | None, typer.Option("--username", help="gateway: log in as")], None),
    "password_stdin": (Annotated[bool, typer.Option("--password-stdin", help="gateway: read the password from standard input")], False),
    "text": (Annotated[str | None, typer.Option("--text", help="reject: text of the reply")], None),
    "accept_untrusted": (
        Annotated[bool | None, typer.Option("--accept-untrusted/--trusted-only", help="mx: take mail from anybody; an open relay")],
        None,
    ),
    "policy": (Annotated[str | None, typer.Option("--policy", help="Attachment policy of its mail; '' for the settings'")], None),
    **RULE_SETTINGS,
}
_GATEWAY = ("host", "port", "tls", "implicit_tls", "lmtp", "username")
Kind = Annotated[str, typer.Option("--kind", help="hosted, gateway, mx, reject, discard, hold or alias")]


@command(rule_app, "add", options=RULE)
async def rule_add(session: Session, name: Name, kind: Kind, options: dict[str, Any]) -> None:
    """Add the rule of a domain."""
    rule, _ = _rule_from(name, kind, options)
    async with session.client() as client:
        made = await client.rules.create(rule)
    saved(session, made)
    session.done(made, f"{made.domain}: {_rule_words(made)}")


@command(rule_app, "set", options=RULE)
async def rule_set(session: Session, name: Name, options: dict[str, Any], kind: Kind = "", etag: Etag = "") -> None:
    """Change what is given of a rule; the rest stays."""
    rule, changed = _rule_from(name, kind, options)
    if not changed:
        raise CommandError("nothing to change: give at least one option", USAGE)
    async with session.client() as client:
        made = await client.rules.update(rule, changed, etag=etag)
    saved(session, made)
    session.done(made, f"{made.domain}: {_rule_words(made)}")


def _rule_from(name: str, kind: str, options: dict[str, Any]) -> "tuple[DomainRule, list[str]]":
    """A rule from the options, and which of its fields they name."""
    from gatepost.client import DomainRule, Gateway

    given = {key: value for key, value in options.items() if value is not None and key in _GATEWAY}
    changed = ["kind"] if kind else []
    changed += [f"gateway.{key}" for key in given]
    if options["password_stdin"]:
        given["password"] = read_secret()
        changed.append("gateway.password")
    gateway = Gateway(**{"host": "", **given}) if given else None
    changed += [key for key in ("text", "accept_untrusted", "policy") if options[key] is not None]
    text, policy = options["text"] or "", options["policy"] or ""
    settings, paths = rule_settings(options)
    changed += [f"settings.{path}" for path in paths]
    accept = bool(options["accept_untrusted"])
    return DomainRule(name, kind, gateway, text=text, accept_untrusted=accept, policy=policy, settings=settings), changed


def read_secret() -> str:
    """The first line of standard input. Raises CommandError when it is empty or absurdly long."""
    line = sys.stdin.readline(4097).rstrip("\r\n")
    if not line or len(line) > 4095:
        raise CommandError("standard input has no password", USAGE)
    return line


@command(rule_app, "list")
async def rule_list(session: Session, kind: Kind = "") -> None:
    """List rules."""
    async with session.client() as client:
        rules = [rule async for rule in client.rules.list(kind)]
    if session.json:
        print_json(rules)
        return
    rows = ((rule.domain, rule.kind, _rule_text(rule), str(len(rule.handlers))) for rule in rules)
    print_table(["!DOMAIN", "KIND", "WHAT", ">HANDLERS"], rows, empty="no rules")


@command(rule_app, "show")
async def rule_show(session: Session, name: Name) -> None:
    """Show a rule and its handlers."""
    async with session.client() as client:
        rule = await client.rules.get(name)
    if session.json:
        print_json(rule)
        return
    _show_rule(rule)


@command(rule_app, "remove")
async def rule_remove(session: Session, name: Name, etag: Etag = "", force: Force = False, yes: Yes = False) -> None:
    """Remove a rule and its handlers."""
    await _remove_rule(session, name, etag, force=force, yes=yes)


async def _remove_rule(session: Session, name: str, etag: str, *, force: bool, yes: bool) -> None:
    if force:
        confirm(f"{name} will be removed together with its users.", yes=yes)
    async with session.client() as client:
        await client.rules.delete(name, etag=etag, force=force)
    session.done({"domain": name, "removed": True}, f"{name} removed")


@command(rule_app, "history")
async def rule_history(session: Session, limit: Annotated[int, typer.Option("--limit", min=1)] = 20) -> None:
    """Versions of the rule set, newest first: who changed what."""
    async with session.client() as client:
        versions = [one async for one in client.rules.versions(limit=limit)]
    if session.json:
        print_json(versions)
        return
    rows = ((str(one.version), local_time(one.time), one.author, one.comment) for one in versions)
    print_table([">VERSION", "TIME", "AUTHOR", "CHANGE"], rows, empty="no changes yet")


def _rule_text(rule: "DomainRule") -> str:
    if rule.kind == "hosted":
        return "mailboxes are here"
    if rule.kind == "gateway" and rule.gateway:
        one = rule.gateway
        login = f", as {one.username}" if one.username else ""
        return f"{'LMTP' if one.lmtp else 'SMTP'} to {one.host}:{one.port}, TLS {'implicit' if one.implicit_tls else one.tls}{login}"
    untrusted = ", from anybody" if rule.accept_untrusted else ""
    words = {"mx": f"to its MX hosts{untrusted}", "discard": "thrown away", "hold": "held in the queue"}
    words["alias"] = f"stands for {rule.settings.alias_of}"
    words["reject"] = f"refused: {rule.text}" if rule.text else "refused"
    return words.get(rule.kind, rule.kind)


def _rule_words(rule: "DomainRule") -> str:
    """The same with its settings."""
    more = (f"{name} {value}" for name, value in _told(rule.settings) if name != "alias_of")
    return "; ".join((_rule_text(rule), *more))


def _told(settings: object, prefix: str = "") -> list[tuple[str, str]]:
    """The fields that differ from their defaults, by their paths."""
    from gatepost.message.plain import to_plain

    return list(_leaves(to_plain(settings), prefix))


def _leaves(plain: "dict[str, Any]", prefix: str) -> "Iterator[tuple[str, str]]":
    for name, value in plain.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", ", ".join(map(_one, value)) if isinstance(value, list) else str(value)


def _one(value: object) -> str:
    return " ".join(map(str, value.values())) if isinstance(value, dict) else str(value)


def _show_rule(rule: "DomainRule") -> None:
    policy = [("policy", rule.policy)] if rule.policy else []
    told = _told(rule.settings)
    print_fields([("domain", rule.domain), ("kind", rule.kind), ("what", _rule_text(rule)), *policy, *told, ("etag", rule.etag)])
    if rule.handlers:
        print("\nHANDLERS")
        _handler_table(rule.handlers)


_KINDS = "mailbox, forward, copy, list, transport, auto-reply, reject, discard or hold"
HandlerKindOption = Annotated[str, typer.Option("--kind", help=_KINDS)]
Pattern = Annotated[str, typer.Argument(metavar="PATTERN", help="Local part, 'prefix*', '*suffix', '*' or '/regular expression/'")]
Targets = Annotated[list[str] | None, typer.Option("--target", metavar="ADDRESS", help="May be repeated")]
Text = Annotated[str, typer.Option("--text", help="reject: text of the reply")]
PolicyName = Annotated[str, typer.Option("--policy", help="Attachment policy of its mail [that of the rule]")]


HandlerPassword = Annotated[bool, typer.Option("--password-stdin", help="transport: read the password from standard input")]


@command(handler_app, "add", options=HANDLER_OPTIONS)
async def handler_add(
    session: Session,
    name: Name,
    pattern: Pattern,
    kind: HandlerKindOption,
    options: dict[str, Any],
    target: Targets = None,
    text: Text = "",
    policy: PolicyName = "",
    password_stdin: HandlerPassword = False,
    etag: Etag = "",
) -> None:
    """Add a handler to a domain."""
    from gatepost.client import Handler

    given, _ = handler_options(options, read_secret() if password_stdin else "")
    async with session.client() as client:
        made = await client.rules.create_handler(name, Handler(pattern, kind, tuple(target or ()), text, policy, given), etag=etag)
    saved(session, made)
    session.done(made, f"{made.pattern}@{name}: {_handler_text(made)}")


@command(handler_app, "set", options=HANDLER_OPTIONS)
async def handler_set(
    session: Session,
    name: Name,
    pattern: Pattern,
    options: dict[str, Any],
    kind: Annotated[str, typer.Option("--kind")] = "",
    target: Targets = None,
    text: Annotated[str | None, typer.Option("--text", help="reject: text of the reply")] = None,
    policy: Annotated[str | None, typer.Option("--policy", help="Attachment policy of its mail")] = None,
    password_stdin: HandlerPassword = False,
    etag: Etag = "",
) -> None:
    """Change what is given of a handler; the rest stays. Targets are replaced as a whole."""
    from gatepost.client import Handler

    given, paths = handler_options(options, read_secret() if password_stdin else "")
    named = {"kind": kind or None, "targets": target or None, "text": text, "policy": policy}
    changed = [field for field, value in named.items() if value is not None] + [f"options.{path}" for path in paths]
    if not changed:
        raise CommandError("nothing to change: give at least one option", USAGE)
    async with session.client() as client:
        known = await client.rules.get_handler(name, pattern)
        wanted = Handler(pattern, kind or known.kind, tuple(target or ()), text or "", policy or "", given)
        made = await client.rules.update_handler(name, wanted, changed, etag=etag)
    saved(session, made)
    session.done(made, f"{made.pattern}@{name}: {_handler_text(made)}")


@command(handler_app, "add-mailboxes")
async def handler_add_mailboxes(
    session: Session,
    name: Name,
    source: Annotated[str, typer.Option("--from", metavar="DOMAIN", help="The domain whose mailboxes are meant")],
    etag: Etag = "",
) -> None:
    """Add a mailbox handler for each mailbox of another domain; names that have a handler are left alone."""
    async with session.client() as client:
        added, left = await client.rules.add_mailbox_handlers(name, source, etag=etag)
    note = f"; {left} had one already" if left else ""
    session.done({"domain": name, "added": added, "left_alone": left}, f"{len(added)} handlers added to {name}{note}")


@command(handler_app, "list")
async def handler_list(session: Session, name: Name) -> None:
    """List the handlers of a domain."""
    async with session.client() as client:
        handlers = [one async for one in client.rules.list_handlers(name)]
    if session.json:
        print_json(handlers)
        return
    _handler_table(handlers)


def _handler_table(handlers: "Any") -> None:
    rows = ((one.pattern, one.kind, ", ".join(one.targets), one.text, clean(_options_text(one))) for one in handlers)
    print_table(["!PATTERN", "KIND", "TARGETS", "TEXT", "OPTIONS"], rows, empty="no handlers")


def _options_text(handler: "Handler") -> str:
    return "; ".join(f"{name} {value}" for name, value in _told(handler.options))


def _handler_text(handler: "Handler") -> str:
    policy = f"(policy {handler.policy})" if handler.policy else ""
    words = " ".join(part for part in (handler.kind, ", ".join(handler.targets), handler.text, policy) if part)
    options = _options_text(handler)
    return f"{words}; {options}" if options else words


@command(handler_app, "show")
async def handler_show(session: Session, name: Name, pattern: Pattern) -> None:
    """Show a handler."""
    async with session.client() as client:
        one = await client.rules.get_handler(name, pattern)
    if session.json:
        print_json(one)
        return
    fields = [("pattern", f"{one.pattern}@{name}"), ("kind", one.kind), ("targets", ", ".join(one.targets)), ("text", one.text)]
    print_fields([*fields, ("policy", one.policy), *_told(one.options)])


@command(handler_app, "remove")
async def handler_remove(session: Session, name: Name, pattern: Pattern, etag: Etag = "") -> None:
    """Remove a handler."""
    async with session.client() as client:
        await client.rules.delete_handler(name, pattern, etag=etag)
    session.done({"domain": name, "pattern": pattern, "removed": True}, f"{pattern}@{name} removed")
