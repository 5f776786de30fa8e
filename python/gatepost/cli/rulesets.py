"""`gatepost rules`: the rule set as a file, its versions and drafts: look at a change before making it, make it whole, take it back."""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gatepost.cli.imports import import_app
from gatepost.cli.output import clean, local_time, print_json, print_table, to_json
from gatepost.cli.rules import read_secret
from gatepost.cli.session import FAILED, USAGE, CommandError, Session, command, confirm, group, warn

if TYPE_CHECKING:
    from gatepost.client import GatepostClient
    from gatepost.client.rulesets import Rehearsal, RuleChange, RuleLint, RuleProblem

rules_app = group("The rule set as a file: export, check, plan, apply; its versions and drafts.")
draft_app = group("Drafts: rule sets kept on the server until they are applied.")
rules_app.add_typer(draft_app, name="draft")
rules_app.add_typer(import_app, name="import")

MAX_OCTETS = 12 << 20
PLAN_FLIPS = 10
_SIGNS = {"add": "+", "change": "~", "remove": "-"}
_LONG = 100

File = Annotated[str, typer.Argument(metavar="[FILE]", help="TOML; - is standard input")]
DraftOption = Annotated[str, typer.Option("--draft", metavar="NAME", help="A draft on the server instead of a file")]
Comment = Annotated[str, typer.Option("--comment", "-m", help="Why; kept with the version")]
Version = Annotated[int, typer.Argument(metavar="VERSION", min=0, help="As `gatepost rules log` shows it; 0 is the empty rule set")]
Force = Annotated[list[str] | None, typer.Option("--force", metavar="WORD", help="open-relay: do it although it makes one")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="a-z, 0-9, '-' and '_'")]


@command(rules_app, "export")
async def rules_export(
    session: Session,
    version: Annotated[int | None, typer.Option("--version", min=0, help="As of this version [now]")] = None,
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="Write here [standard output]")] = "",
) -> None:
    """Write the rules as a TOML file. Users and passwords are not in it; secrets are named."""
    async with session.client() as client:
        found = await client.rulesets.document(version)
    if session.json:
        print_json(found)
    elif output:
        with open(output, "w", encoding="utf-8") as file:  # noqa: ASYNC230  # nothing else runs here
            file.write(found.text)
        print(f"version {found.version} written to {output}")
    else:
        sys.stdout.write(found.text)


@command(rules_app, "schema")
async def rules_schema(session: Session) -> None:
    """Print the JSON Schema of rule files, by which an editor completes and checks them."""
    async with session.client() as client:
        sys.stdout.write(await client.rulesets.schema())


@command(rules_app, "check")
async def rules_check(session: Session, file: File = "", draft: DraftOption = "") -> None:
    """Say what is wrong with a rule file, and what is odd; without one, of the rules in force. Exit status 1: it would not be taken."""
    from gatepost.client.rulesets import source

    async with session.client() as client:
        in_force = not (file or draft)
        wanted = source(version=(await client.rulesets.document()).version) if in_force else _wanted(file, draft)
        found = await client.rulesets.check(wanted)
    if session.json:
        print_json(found)
    else:
        _show_findings(file or draft or "rules in force", found.problems, found.lints)
        counts = f"{found.rule_count} rules, {found.handler_count} handlers"
        if in_force:
            print(f"the rules in force: {counts}, {len(found.lints) or 'nothing'} odd")
        elif not _hindered(found.problems, found.lints):
            print(f"{file or draft} can be applied: {counts}")
    if _hindered(found.problems, found.lints):
        raise typer.Exit(FAILED)


@command(rules_app, "plan")
async def rules_plan(session: Session, file: File = "", draft: DraftOption = "") -> None:
    """Show what applying a rule file would change, in the rules and for the mail of the last days. Nothing is changed. Exit status 1: it
    would not be taken.
    """
    wanted = _wanted(file, draft)
    async with session.client() as client:
        found = await client.rulesets.plan(wanted)
        flips = await client.rulesets.rehearse(wanted, limit=PLAN_FLIPS) if not found.problems else None
    if session.json:
        print_json({**to_json(found), "rehearsal": flips})
    else:
        _show_findings(file or draft, found.problems, found.lints)
        _show_changes(found.changes, found.change_count)
        if flips is not None and flips.decisions:
            _show_flips(flips, trace=False)
        if not found.problems:
            print(f"planned for version {found.base_version}: {_counted(found.change_count)}")
    if _hindered(found.problems, found.lints):
        raise typer.Exit(FAILED)


@command(rules_app, "apply")
async def rules_apply(
    session: Session,
    file: File = "",
    draft: DraftOption = "",
    base: Annotated[
        int | None, typer.Option("--base", metavar="VERSION", min=0, help="Only if this version is in force, as plan said")
    ] = None,
    any_base: Annotated[bool, typer.Option("--any-base", help="Whatever version is in force when it is applied")] = False,
    comment: Comment = "",
    force: Force = None,
    yes: Yes = False,
) -> None:
    """Make a rule file the rules in force: all of it as one version, or nothing."""
    wanted = _wanted(file, draft)
    async with session.client() as client:
        plan = await client.rulesets.plan(wanted)
        if not plan.problems and not session.json:
            _show_changes(plan.changes, plan.change_count)
            if plan.change_count:
                confirm(f"{_counted(plan.change_count)} will be applied to version {plan.base_version}.", yes=yes)
        named = None if any_base else base if base is not None else plan.base_version
        made = await client.rulesets.apply(wanted, base_version=named, comment=comment, force=force or ())
        if draft:
            await client.rulesets.discard_draft(draft)
    _applied(session, made)


@command(rules_app, "rehearse")
async def rules_rehearse(
    session: Session,
    file: File = "",
    draft: DraftOption = "",
    limit: Annotated[int, typer.Option("--limit", min=1, max=500, help="Flips to show")] = 20,
    trace: Annotated[bool, typer.Option("--trace", help="Show how each was and would be decided")] = False,
) -> None:
    """Decide recorded mail of the last days by a rule file, and show what comes out differently. Nothing is changed."""
    wanted = _wanted(file, draft)
    async with session.client() as client:
        found = await client.rulesets.rehearse(wanted, limit=limit)
    if session.json:
        print_json(found)
        return
    _show_flips(found, trace=trace)


def _show_flips(found: "Rehearsal", *, trace: bool) -> None:
    for one in found.flips:
        known = [one.user, one.client_address, "TLS" if one.tls else "", "trusted" if one.trusted else "stranger"]
        who = f"{one.sender or '<>'} ({', '.join(filter(None, known))})"
        print(clean(f"{one.recipient} from {who}, {one.times}×:"))
        print(f"  - {clean(one.before)}\n  + {clean(one.after)}")
        for sign, steps in (("-", one.trace_before), ("+", one.trace_after)) if trace else ():
            for step in steps:
                print(f"      {sign} {clean(step.step)}: {clean(step.detail)}")
    if found.flip_count > len(found.flips):
        print(f"… and {found.flip_count - len(found.flips)} more")
    kinds = "".join(f"; {kind}: {count}" for kind, count in sorted(found.kinds.items()))
    since = f" since {local_time(found.since)}" if found.since else ""
    print(f"{found.flip_count:,} of {found.decisions:,} recorded decisions{since} come out differently{kinds}")


@command(rules_app, "replan")
async def rules_replan(
    session: Session,
    file: File = "",
    draft: DraftOption = "",
    reroute: Annotated[
        list[int] | None, typer.Option("--reroute", metavar="GROUP", help="Reroute this group, may be repeated; 0: all")
    ] = None,
    yes: Yes = False,
) -> None:
    """Show queued mail that would go another way by the rules in force (or by a file), and reroute what is chosen."""
    from gatepost.client.rulesets import ReplanGroup

    if reroute and (file or draft):
        raise CommandError("mail is rerouted by the rules in force: apply the file first", USAGE)
    async with session.client() as client:
        found = await client.rulesets.replan(_wanted(file, draft) if file or draft else None)
        chosen: list[ReplanGroup] = [
            one for n, one in enumerate(found.groups, 1) if not one.hindrance and (n in (reroute or ()) or 0 in (reroute or ()))
        ]
        if not session.json:
            _show_replan(found)
        elif not reroute:
            print_json(found)
        if not reroute:
            return
        count = sum(one.recipients for one in chosen)
        if not count:
            raise CommandError("no group of that number can be rerouted", USAGE)
        confirm(f"{count:,} recipients will be rerouted; gatepost queue undo takes it back.", yes=yes)
        done = [await _rerouted(client, one) for one in chosen]
    if session.json:
        print_json(done)
        return
    for one in done:
        print(f"{one.result.changed:,} messages rerouted, {one.refused} refused; operation {one.result.operation_id}")


async def _rerouted(client: "GatepostClient", group: Any) -> Any:
    """One group as one operation: exactly the messages that were shown."""
    from gatepost.client import Frozen, RerouteTarget

    preview = await client.queue.preview(list(group.message_ids))
    return await client.queue.reroute_all(Frozen(preview.token), RerouteTarget())


def _show_replan(found: Any) -> None:
    rows = (
        (str(n), str(one.messages), str(one.recipients), one.before, one.after or one.hindrance) for n, one in enumerate(found.groups, 1)
    )
    print_table([">GROUP", ">MESSAGES", ">RECIPIENTS", "NOW", "BY THE RULES"], rows, empty="")
    more = "; the rest of the queue was not looked at" if found.more else ""
    print(f"{found.messages:,} of {found.examined:,} queued messages would now route differently{more}")


@command(rules_app, "log")
async def rules_log(session: Session, limit: Annotated[int, typer.Option("--limit", min=1)] = 20) -> None:
    """Versions of the rules, newest first: who changed what, when and why."""
    async with session.client() as client:
        versions = [one async for one in client.rules.versions(limit=limit)]
    if session.json:
        print_json(versions)
        return
    rows = ((str(one.version), local_time(one.time), one.author, one.comment) for one in versions)
    print_table([">VERSION", "TIME", "AUTHOR", "COMMENT"], rows, empty="no changes yet")


@command(rules_app, "diff")
async def rules_diff(
    session: Session,
    version: Version,
    other: Annotated[int | None, typer.Argument(metavar="[OTHER]", min=0, help="Another version [the rules in force]")] = None,
) -> None:
    """Show what differs between two versions."""
    async with session.client() as client:
        changes, count = await client.rulesets.diff(version, other)
    if session.json:
        print_json({"changes": changes, "change_count": count})
        return
    _show_changes(changes, count)
    print(_counted(count))


@command(rules_app, "restore")
async def rules_restore(session: Session, version: Version, comment: Comment = "", force: Force = None, yes: Yes = False) -> None:
    """Go back to an earlier version, as a new one. Users stay as they are."""
    from gatepost.client.rulesets import source

    async with session.client() as client:
        plan = await client.rulesets.plan(source(version=version))
        if not session.json:
            _show_changes(plan.changes, plan.change_count)
        if plan.change_count and not plan.problems:
            confirm(f"{_counted(plan.change_count)} will be made to go back to version {version}.", yes=yes)
        made = await client.rulesets.apply(source(version=version), base_version=plan.base_version, comment=comment, force=force or ())
    _applied(session, made)


@command(rules_app, "secret")
async def rules_secret(session: Session, name: Annotated[str, typer.Argument(metavar="NAME", help="As password_ref has it")]) -> None:
    """Store a secret that rule files name; it is read from standard input."""
    secret = read_secret()
    async with session.client() as client:
        await client.rulesets.put_secret(name, secret)
    session.done({"name": name, "stored": True}, f"secret {name} stored")


# ---- drafts ----------------------------------------------------------------------------------------------------------


@command(draft_app, "list")
async def draft_list(session: Session) -> None:
    """List drafts."""
    async with session.client() as client:
        found = await client.rulesets.drafts()
    if session.json:
        print_json(found)
        return
    rows = ((one.name, one.author, local_time(one.time), str(one.base_version)) for one in found)
    print_table(["!NAME", "AUTHOR", "CHANGED", ">FROM VERSION"], rows, empty="no drafts")


@command(draft_app, "show")
async def draft_show(session: Session, name: Name) -> None:
    """Print a draft's text."""
    async with session.client() as client:
        found = await client.rulesets.draft(name)
    if session.json:
        print_json(found)
        return
    sys.stdout.write(found.text)


@command(draft_app, "put")
async def draft_put(
    session: Session,
    name: Name,
    file: Annotated[str, typer.Argument(metavar="[FILE]", help="TOML [the rules in force]; - is standard input")] = "",
) -> None:
    """Keep a file as a draft; without one, begin from the rules in force."""
    text = read_document(file) if file else None
    async with session.client() as client:
        made = await client.rulesets.put_draft(name, text)
    session.done(made, f"draft {made.name} kept, from version {made.base_version}; look at it with gatepost rules plan --draft {made.name}")


@command(draft_app, "edit")
async def draft_edit(session: Session, name: Name) -> None:
    """Edit a draft with $EDITOR, then check it."""
    editor = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi")
    async with session.client() as client:
        found = await client.rulesets.draft(name)
        with TemporaryDirectory(prefix="gatepost-") as place:
            path = Path(place) / f"{name}.toml"
            path.write_text(found.text, "utf-8")
            if subprocess.run([*editor, str(path)], check=False).returncode:  # noqa: ASYNC221  # nothing else runs here
                raise CommandError(f"{editor[0]} failed; the draft stays as it was", FAILED)
            text = path.read_text("utf-8")
        if text == found.text:
            raise CommandError("nothing was changed", FAILED)
        made = await client.rulesets.put_draft(name, text, etag=found.etag)
        checked = await client.rulesets.check(_wanted("", name))
    _show_findings(name, checked.problems, checked.lints)
    session.done(made, f"draft {made.name} kept")


@command(draft_app, "discard")
async def draft_discard(session: Session, name: Name) -> None:
    """Throw a draft away."""
    async with session.client() as client:
        await client.rulesets.discard_draft(name)
    session.done({"name": name, "discarded": True}, f"draft {name} discarded")


# ---- shared ----------------------------------------------------------------------------------------------------------


def read_document(file: str) -> str:
    """A file or standard input. Raises CommandError when it is no text or too long."""
    data = sys.stdin.buffer.read(MAX_OCTETS + 1) if file == "-" else Path(file).read_bytes()
    if len(data) > MAX_OCTETS:
        raise CommandError(f"{file}: longer than {MAX_OCTETS:,} octets", USAGE)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as fault:
        line = data.count(b"\n", 0, fault.start) + 1
        raise CommandError(f"{file}: line {line}: not UTF-8", USAGE) from fault


def _wanted(file: str, draft: str) -> Any:
    from gatepost.client.rulesets import source

    if bool(file) == bool(draft):
        raise CommandError("give a file, or a draft by --draft NAME", USAGE)
    return source(read_document(file)) if file else source(draft=draft)


def _hindered(problems: Sequence["RuleProblem"], lints: Iterable["RuleLint"]) -> bool:
    return bool(problems) or any(one.error for one in lints)


def _show_findings(file: str, problems: Iterable["RuleProblem"], lints: Iterable["RuleLint"]) -> None:
    for one in problems:
        print(f"{file}:{one.line}: {clean(f'{one.field}: ' if one.field else '')}{clean(one.problem)}")
    for each in lints:
        word = "error" if each.error else "warning"
        where = f"{file}:{each.line}" if each.line else file
        print(f"{where}: {word}: {clean(each.field)}: {clean(each.message)} [{each.code}]")


def _show_changes(changes: Sequence["RuleChange"], count: int) -> None:
    for one in changes:
        print(f"{_SIGNS.get(one.verb, '?')} {one.subject} {clean(one.key)}")
        for field in one.fields:
            print(f"    {field.field}: {_shown(field.before)} → {_shown(field.after)}")
    if count > len(changes):
        print(f"… and {count - len(changes)} more")


def _shown(text: str) -> str:
    text = clean(text.replace("\n", "⏎"))
    return "(default)" if not text else text if len(text) <= _LONG else f"{text[:_LONG]}…"


def _counted(count: int) -> str:
    return "nothing differs" if not count else f"{count:,} change{'s' if count > 1 else ''}"


def _applied(session: Session, made: Any) -> None:
    if not session.json:
        for one in made.lints:
            warn(f"{clean(one.field)}: {clean(one.message)} [{one.code}]")
    text = (
        f"version {made.version} is in force: {_counted(made.change_count)}" if made.change_count else "nothing differs; nothing was done"
    )
    session.done(made, text)
