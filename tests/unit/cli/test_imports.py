"""Imports: what another server's tables say comes out as rules that a Gatepost takes, and what has no counterpart is told."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from gatepost.cli import import_hmailserver, import_hmailserver_xml, import_postfix
from gatepost.cli.imported import Imported
from support.control import Plane

VIRTUAL = """
# domains
example.org     anything
sales@example.org   alice@example.org,
    agency@partner.test
alice@example.org   alice@example.org, archive@example.org
@catch.test  bob@example.org
@old.test    @example.org
info         bob@example.org
"""
TRANSPORT = """
partner.test     smtp:[mx.partner.test]:2525
.partner.test    relay:[10.0.0.5]
mail.test        lmtp:inet.mail.test
secure.test      smtp:[mx.secure.test]:smtps
by-mx.test       smtp:relay.by-mx.test
closed.test      error:5.1.1 nobody here
gone.test        discard:
odd.test         procmail:
one@else.test    smtp:[h.test]
*                smtp:[smart.test]:submission
"""


def postfix() -> Imported:
    made = Imported("Postfix")
    import_postfix.relay_domains(made, "partner.test ok\nbackup.test OK\n", "relay_domains")
    import_postfix.transport(made, TRANSPORT, "transport")
    import_postfix.virtual(made, VIRTUAL, "virtual", "example.org")
    import_postfix.aliases(
        made, 'root: alice\ndump: /dev/null\nlist: :include:/etc/list, bob\n"odd name": alice\n', "aliases", "example.org"
    )
    import_postfix.sender_relays(made, "@example.org [isp.test]:587\n", "sender")
    return made


def test_postfix_tables_become_rules_and_handlers() -> None:
    rules = tomllib.loads(postfix().text())["rules"]
    handlers = rules["example.org"].pop("handlers")
    assert rules["example.org"] == {"kind": "hosted"}
    assert handlers["sales"] == {"kind": "forward", "targets": ["alice@example.org", "agency@partner.test"]}
    assert handlers["alice"] == {"kind": "copy", "targets": ["archive@example.org"]}
    assert handlers["root"] == {"kind": "forward", "targets": ["alice@example.org"]}
    assert handlers["list"] == {"kind": "forward", "targets": ["bob@example.org"]}
    assert handlers["info"]["targets"] == ["bob@example.org"]
    assert rules["catch.test"]["handlers"] == {"*": {"kind": "forward", "targets": ["bob@example.org"]}}
    assert rules["partner.test"] == {"kind": "gateway", "host": "mx.partner.test", "port": 2525}
    assert rules["*.partner.test"] == {"kind": "gateway", "host": "10.0.0.5", "port": 25}
    assert rules["mail.test"] == {"kind": "gateway", "host": "inet.mail.test", "port": 24, "lmtp": True}
    assert rules["secure.test"] == {"kind": "gateway", "host": "mx.secure.test", "port": 465, "implicit_tls": True}
    assert rules["backup.test"] == {"kind": "mx", "accept_untrusted": True}
    assert rules["old.test"] == {"kind": "alias", "settings": {"alias_of": "example.org"}}
    assert rules["closed.test"] == {"kind": "reject", "text": "nobody here"}
    assert rules["gone.test"] == {"kind": "discard"}
    assert rules["*"] == {"kind": "gateway", "host": "smart.test", "port": 587}


@pytest.mark.parametrize(
    "told",
    [
        "transport:6: by-mx.test",
        "transport:9: odd.test",
        "transport:10: one@else.test",
        "aliases:2: dump",
        "sender:1",
    ],
)
def test_what_postfix_has_and_rules_have_not_is_told_with_its_line(told: str) -> None:
    assert any(note.startswith(told) for note in postfix().notes), postfix().notes


def test_mailboxes_that_are_needed_are_told() -> None:
    assert postfix().needed_users() == ["alice@example.org", "archive@example.org", "bob@example.org"]


HMAIL: dict[str, list[dict[str, Any]]] = {
    "hm_domains": [
        {
            "domainid": "1",
            "domainname": "Example.org",
            "domainactive": "1",
            "domainpostmaster": "boss@example.org",
            "domainmaxmessagesize": "0",
        },
        {"domainid": "2", "domainname": "off.test", "domainactive": "0", "domainpostmaster": "", "domainmaxmessagesize": "0"},
    ],
    "hm_domain_aliases": [{"daid": "1", "dadomainid": "1", "daalias": "example.net"}],
    "hm_aliases": [
        {"aliasid": "1", "aliasdomainid": "1", "aliasname": "info@example.org", "aliasvalue": "boss@example.org", "aliasactive": "1"},
        {"aliasid": "2", "aliasdomainid": "1", "aliasname": "old@example.org", "aliasvalue": "boss@example.org", "aliasactive": "0"},
    ],
    "hm_distributionlists": [
        {
            "distributionlistid": "7",
            "distributionlistdomainid": "1",
            "distributionlistaddress": "team@example.org",
            "distributionlistenabled": "1",
            "distributionlistrequireauth": "1",
            "distributionlistrequireaddress": "",
            "distributionlistmode": "1",
        }
    ],
    "hm_distributionlistsrecipients": [
        {"distributionlistrecipientid": str(n), "distributionlistrecipientlistid": "7", "distributionlistrecipientaddress": address}
        for n, address in enumerate(["boss@example.org", "o'hara@far.test"])
    ],
    "hm_routes": [
        {
            "routeid": "3",
            "routedomainname": "partner.test",
            "routedescription": "a (b), c",
            "routetargetsmthost": "mx.partner.test",
            "routetargetsmtport": "587",
            "routenooftries": "4",
            "routeminutesbetweentry": "60",
            "routealladdresses": "0",
            "routeuseauthentication": "1",
            "routeauthenticationusername": "me",
            "routeauthenticationpassword": "hush",
            "routetreatsecurityaslocal": "0",
            "routeconnectionsecurity": "3",
            "routetreatsenderaslocaldomain": "0",
        }
    ],
    "hm_routeaddresses": [{"routeaddressid": "1", "routeaddressrouteid": "3", "routeaddressaddress": "x@partner.test"}],
    "hm_accounts": [
        {
            "accountid": "1",
            "accountdomainid": "1",
            "accountaddress": "boss@example.org",
            "accountactive": "1",
            "accountforwardenabled": "1",
            "accountforwardaddress": "boss@home.test",
            "accountforwardkeeporiginal": "1",
            "accountvacationmessageon": "1",
            "accountvacationsubject": "away",
        }
    ],
}


def dump() -> str:
    """The tables as mysqldump writes them with --complete-insert, two rows in one statement where there are two."""
    made = ["-- MySQL dump", "DROP TABLE IF EXISTS `hm_rules`;", "INSERT INTO `hm_rules` (`ruleid`) VALUES (1);"]
    for table, rows in HMAIL.items():
        columns = ", ".join(f"`{one}`" for one in rows[0])
        quoted = ["(" + ",".join(v if v.isdigit() else "'" + v.replace("'", "''") + "'" for v in row.values()) + ")" for row in rows]
        made.append(f"INSERT INTO `{table}` ({columns}) VALUES {','.join(quoted)};")
    return "\n".join(made) + "\n"


BACKUP = """<?xml version="1.0" encoding="UTF-8"?>
<Backup><BackupInformation Mode="7" Version="5.6.8"/><Configuration><Domains>
<Domain Name="Example.org" Postmaster="boss@example.org" Active="1" MaxMessageSize="0" EnableSignature="0" DKIMSelector="">
<DomainAliases><DomainAlias Name="example.net"/></DomainAliases>
<Accounts><Account Name="boss@example.org" Active="1" Password="hush" VacationMessageOn="1" VacationSubject="away" ForwardEnabled="1"
 ForwardAddress="boss@home.test" ForwardKeepOriginal="1"><Rules/></Account></Accounts>
<Aliases><Alias Name="info@example.org" Value="boss@example.org" Active="1"/>
<Alias Name="old@example.org" Value="boss@example.org" Active="0"/></Aliases>
<DistributionLists><DistributionList Name="team@example.org" Active="1" RequiresAuth="1" RequiresAuthAddress="" ListMode="1">
<DistributionListRecipients><Recipient Name="boss@example.org"/><Recipient Name="o'hara@far.test"/></DistributionListRecipients>
</DistributionList></DistributionLists></Domain>
<Domain Name="off.test" Postmaster="" Active="0" MaxMessageSize="0"/></Domains>
<Routes><Route Name="partner.test" Description="a (b), c" TargetHost="mx.partner.test" TargetPort="587" NumberOfTries="4"
 MinutesBetweenTry="60" ToAllAddresses="0" RequiresAuthentication="1" Username="me" Password="hush" ConnectionSecurity="3">
<RouteAddresses><RouteAddress Name="x@partner.test"/></RouteAddresses></Route></Routes></Configuration></Backup>
"""
"""The same as hMailServer's backup has it."""


def test_what_is_no_backup_is_refused_with_a_reason() -> None:
    with pytest.raises(ValueError, match="no XML"):
        import_hmailserver_xml.read_backup("<Backup><Domain></Backup>")
    with pytest.raises(ValueError, match="DOCTYPE"):
        import_hmailserver_xml.read_backup('<!DOCTYPE b [<!ENTITY a "aaaa">]><Backup/>')
    with pytest.raises(ValueError, match="has no Name"):
        import_hmailserver_xml.read_backup("<Backup><Domain Active='1'/></Backup>")


def folder(place: Path) -> Path:
    """The same as CSV files with headers."""
    for table, rows in HMAIL.items():
        lines = [",".join(rows[0]), *(",".join(f'"{value}"' for value in row.values()) for row in rows)]
        (place / f"{table}.csv").write_text("\n".join(lines) + "\n")
    return place


@pytest.fixture(params=["folder", "dump", "backup"])
def hmail(request: pytest.FixtureRequest, tmp_path: Path) -> Imported:
    made = Imported("hMailServer")
    tables = {
        "folder": lambda: import_hmailserver.read_folder(folder(tmp_path)),
        "dump": lambda: import_hmailserver.read_dump(dump()),
        "backup": lambda: import_hmailserver_xml.read_backup(BACKUP),
    }[request.param]()
    import_hmailserver.convert(made, tables)
    return made


def test_hmailserver_tables_become_rules_and_handlers(hmail: Imported) -> None:
    rules = tomllib.loads(hmail.text())["rules"]
    assert rules["example.org"]["handlers"] == {
        "*": {"kind": "forward", "targets": ["boss@example.org"]},
        "boss": {"kind": "copy", "targets": ["boss@home.test"]},
        "info": {"kind": "forward", "targets": ["boss@example.org"]},
        "team": {"kind": "forward", "targets": ["boss@example.org", "o'hara@far.test"]},
    }
    gateway = {"kind": "gateway", "host": "mx.partner.test", "port": 587, "tls": "required"}
    assert rules["partner.test"] == gateway | {"username": "me", "password_ref": "route-partner.test"}
    assert rules["example.net"] == {"kind": "alias", "settings": {"alias_of": "example.org"}}
    assert "off.test" not in rules
    assert hmail.needed_users() == ["boss@example.org"]
    assert "hush" not in hmail.text() + str(hmail.notes)


@pytest.mark.parametrize("told", ["off.test", "old@example.org", "only members", "x@partner.test", "away", "route-partner.test"])
def test_what_hmailserver_has_and_rules_have_not_is_told(hmail: Imported, told: str) -> None:
    assert any(told in note for note in hmail.notes), hmail.notes


async def test_an_import_is_taken_by_a_server_once_its_mailboxes_are_there(plane: Plane, cli, tmp_path: Path):
    place = tmp_path / "tables"
    place.mkdir()
    file = tmp_path / "rules.toml"
    ran = await cli("rules", "import", "hmailserver", str(folder(place)), "-o", str(file))
    assert ran.code == 0, ran.err
    assert "needs a mailbox first: gatepost user add boss@example.org" in ran.err
    await cli("domain", "add", "example.org")
    await cli("user", "add", "boss@example.org", "--no-password")
    applied = await cli("rules", "apply", str(file), "--yes")
    assert applied.code == 0, applied.err
    (place / "hm_domains.csv").write_text("a,b\n1,2\n")
    assert (await cli("rules", "import", "hmailserver", str(place))).code == 2


async def test_postfix_tables_are_imported_by_the_command(plane: Plane, cli, tmp_path: Path):
    (tmp_path / "virtual").write_text("x@far.test y@far.test\n")
    ran = await cli("rules", "import", "postfix", "--virtual", str(tmp_path / "virtual"), "--json")
    assert tomllib.loads(ran.json["text"])["rules"]["far.test"]["handlers"]["x"]["targets"] == ["y@far.test"]
    assert ran.json["users"] == ["y@far.test"]
    assert (await cli("rules", "import", "postfix")).code == 2
