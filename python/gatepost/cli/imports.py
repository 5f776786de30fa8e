"""`gatepost rules import`: rule files from the tables of another server, and a report of what could not be carried over.

Needs no server: it reads files here and writes a rule file, which is then checked, planned and applied like any other.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from gatepost.cli import import_hmailserver, import_hmailserver_xml, import_postfix
from gatepost.cli.imported import Imported
from gatepost.cli.output import clean, print_json
from gatepost.cli.session import USAGE, CommandError, Session, command, group

import_app = group("Make a rule file from Postfix's or hMailServer's tables.")

MAX_OCTETS = 64 << 20
Maps = list[str] | None
Output = Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="Write the rule file here [standard output]")]


@command(import_app, "postfix")
async def from_postfix(
    session: Session,
    virtual: Annotated[Maps, typer.Option("--virtual", metavar="FILE", help="virtual_alias_maps")] = None,
    transport: Annotated[Maps, typer.Option("--transport", metavar="FILE", help="transport_maps")] = None,
    relay_domains: Annotated[Maps, typer.Option("--relay-domains", metavar="FILE", help="relay_domains")] = None,
    sender_relay: Annotated[Maps, typer.Option("--sender-relay", metavar="FILE", help="sender_dependent_relayhost_maps")] = None,
    aliases: Annotated[Maps, typer.Option("--aliases", metavar="FILE", help="alias_maps; needs --domain")] = None,
    domain: Annotated[str, typer.Option("--domain", help="The domain of names that have none")] = "",
    output: Output = "",
) -> None:
    """Read Postfix's tables as text (before postmap). May be given several files of each."""
    if aliases and not domain:
        raise CommandError("aliases are names without a domain: say which by --domain", USAGE)
    made = Imported("Postfix")
    for file in relay_domains or ():
        import_postfix.relay_domains(made, _read(file), file)
    for file in transport or ():
        import_postfix.transport(made, _read(file), file)
    for file in virtual or ():
        import_postfix.virtual(made, _read(file), file, domain)
    for file in aliases or ():
        import_postfix.aliases(made, _read(file), file, domain)
    for file in sender_relay or ():
        import_postfix.sender_relays(made, _read(file), file)
    if not (made.rules or made.notes):
        raise CommandError("give at least one table, such as --virtual FILE", USAGE)
    _finish(session, made, output)


@command(import_app, "hmailserver")
async def from_hmailserver(
    session: Session,
    source: Annotated[str, typer.Argument(metavar="FOLDER|FILE", help="hm_*.csv files, an SQL dump, or hMailServerBackup.xml")],
    output: Output = "",
) -> None:
    """Read hMailServer's tables: CSV files with headers in a folder, an SQL dump whose INSERTs name their columns, or its XML backup."""
    made = Imported("hMailServer")
    try:
        import_hmailserver.convert(made, _tables(source))
    except (KeyError, ValueError) as error:
        raise CommandError(f"{source}: a table is not as hMailServer has it: {error}", USAGE) from error
    if not made.rules:
        raise CommandError(f"{source}: no domains and no routes in it", USAGE)
    _finish(session, made, output)


def _tables(source: str) -> import_hmailserver.Tables:
    """By what the source is."""
    if Path(source).is_dir():
        return import_hmailserver.read_folder(Path(source))
    text = _read(source)
    return import_hmailserver_xml.read_backup(text) if text.lstrip().startswith("<") else import_hmailserver.read_dump(text)


def _read(file: str) -> str:
    data = Path(file).read_bytes()
    if len(data) > MAX_OCTETS:
        raise CommandError(f"{file}: longer than {MAX_OCTETS:,} octets", USAGE)
    coding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8"
    return data.decode(coding, "replace").removeprefix("\ufeff")


def _finish(session: Session, made: Imported, output: str) -> None:
    text, users = made.text(), made.needed_users()
    if output:
        with open(output, "w", encoding="utf-8") as file:
            file.write(text)
    if session.json:
        print_json({"text": text, "users": users, "notes": made.notes})
        return
    if not output:
        sys.stdout.write(text)
    report = [f"{len(made.rules)} rules, {sum(len(rule.get('handlers', {})) for rule in made.rules.values())} handlers"]
    report += [f"not carried over: {note}" for note in made.notes]
    report += [f"needs a mailbox first: gatepost user add {user}" for user in users]
    for line in report:
        print(clean(line), file=sys.stderr)
