"""hMailServer's tables to rules: a folder of CSV files (hm_domains.csv …, with a header) or an SQL dump whose INSERTs name columns.

Called by cli/imports.py. Reads domains, domain aliases, aliases, distribution lists, routes with their addresses, and forwarding of
accounts. Passwords, signatures, vacation messages and rules of accounts are noted, not carried over. Pure.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from gatepost.cli.imported import Imported

TABLES = (
    "hm_domains",
    "hm_domain_aliases",
    "hm_aliases",
    "hm_distributionlists",
    "hm_distributionlistsrecipients",
    "hm_routes",
    "hm_routeaddresses",
    "hm_accounts",
)
Row = Mapping[str, str]
Tables = Mapping[str, list[Row]]

_INSERT = re.compile(
    r"INSERT\s+INTO\s+[`\"\[]?(?:dbo[`\"\]]?\.[`\"\[]?)?(\w+)[`\"\]]?\s*\(([^)]*)\)\s*VALUES\s*(.*?);[ \t]*(?:\r?\n|\Z)", re.I | re.S
)
_VALUE = re.compile(r"\s*(?:N?'((?:[^'\\]|''|\\.)*)'|([^,()'\s][^,()]*))\s*(,|\)|\Z)")
_SECURITY = {"0": "none", "1": "required", "2": "opportunistic", "3": "required"}
_MODES = {"0": "anyone may post to it", "1": "only members may post to it", "2": "only one address may post to it"}


def read_folder(folder: Path) -> Tables:
    """CSV files by table; a file that is missing is an empty table."""
    found: dict[str, list[Row]] = {}
    for name in TABLES:
        path = folder / f"{name}.csv"
        text = path.read_text("utf-8-sig") if path.exists() else ""
        rows = csv.DictReader(io.StringIO(text), delimiter=";" if ";" in text.partition("\n")[0] else ",")
        found[name] = [{str(key).lower(): value or "" for key, value in row.items() if key is not None} for row in rows]
    return found


def read_dump(text: str) -> Tables:
    """The INSERTs of an SQL dump."""
    found: dict[str, list[Row]] = {name: [] for name in TABLES}
    for match in _INSERT.finditer(text):
        table = match.group(1).lower()
        columns = [one.strip(' `"[]\r\n\t').lower() for one in match.group(2).split(",")]
        if table in found:
            found[table] += [dict(zip(columns, values, strict=False)) for values in _rows(match.group(3))]
    return found


def _rows(text: str) -> Iterator[list[str]]:
    position = text.find("(")
    while position >= 0:
        values, position = [], position + 1
        while match := _VALUE.match(text, position):
            quoted, bare, end = match.groups()
            values.append(re.sub(r"''|\\(.)", lambda one: one.group(1) or "'", quoted) if quoted is not None else bare.strip())
            position = match.end()
            if end != ",":
                break
        yield values
        position = text.find("(", position)


def convert(made: Imported, tables: Tables) -> None:
    """Everything that has a counterpart into `made`, and a note for the rest."""
    domains = {row["domainid"]: row["domainname"].lower() for row in tables["hm_domains"]}
    for row in tables["hm_domains"]:
        _domain(made, row)
    for row in tables["hm_domain_aliases"]:
        if row["dadomainid"] in domains:
            made.rule(row["daalias"], "alias", "hm_domain_aliases", settings={"alias_of": domains[row["dadomainid"]]})
        else:
            made.note("hm_domain_aliases", f"{row['daalias']} is another name of a domain that is gone")
    _routes(made, tables)
    for row in tables["hm_accounts"]:
        _account(made, row)
    for row in tables["hm_aliases"]:
        if _on(row, "aliasactive"):
            _lead(made, row["aliasname"], [row["aliasvalue"]], "hm_aliases")
        else:
            made.note("hm_aliases", f"{row['aliasname']} is switched off")
    _lists(made, tables)


def _domain(made: Imported, row: Row) -> None:
    name = row["domainname"].lower()
    if not _on(row, "domainactive"):
        made.note("hm_domains", f"{name} is switched off")
        return
    made.rule(name, "hosted", "hm_domains")
    if row.get("domainpostmaster"):  # hMailServer's catch-all address
        target = row["domainpostmaster"] if "@" in row["domainpostmaster"] else f"{row['domainpostmaster']}@{name}"
        made.handler("*", name, {"kind": "forward", "targets": [target]}, "hm_domains")
    for column, what in (("domainmaxmessagesize", "a limit of message size"), ("domaindkimselector", "DKIM signing")):
        if row.get(column, "0") not in ("", "0", "NULL"):
            made.note("hm_domains", f"{name} has {what} ({row[column]})")
    if _on(row, "domainenablesignature", default=False):
        made.note("hm_domains", f"{name} has a signature that is put under mail")


def _routes(made: Imported, tables: Tables) -> None:
    addresses: dict[str, list[str]] = {}
    for row in tables["hm_routeaddresses"]:
        addresses.setdefault(row["routeaddressrouteid"], []).append(row["routeaddressaddress"])
    for row in tables["hm_routes"]:
        name = row["routedomainname"].lower()
        rule = made.rule(name, "gateway", "hm_routes")
        if rule["kind"] != "gateway":
            continue
        rule.update(host=row["routetargetsmthost"], port=int(row["routetargetsmtport"]))
        security = row.get("routeconnectionsecurity", "0")
        rule["tls"] = _SECURITY.get(security, "opportunistic")
        if security == "1":
            rule["implicit_tls"] = True
        if _on(row, "routeuseauthentication", default=False):
            rule.update(username=row["routeauthenticationusername"], password_ref=f"route-{name.strip('*.')}")
            made.note("hm_routes", f"{name}: store its password with gatepost rules secret route-{name.strip('*.')}")
        made.note("hm_routes", f"{name}: {row['routenooftries']} tries every {row['routeminutesbetweentry']} minutes")
        if not _on(row, "routealladdresses"):
            listed = ", ".join(addresses.get(row["routeid"], [])) or "none"
            made.note("hm_routes", f"{name} takes these addresses only: {listed}; the rule takes all")


def _account(made: Imported, row: Row) -> None:
    address = row["accountaddress"].lower()
    made.users[address] = None
    if not _on(row, "accountactive"):
        made.note("hm_accounts", f"{address} is switched off: gatepost user disable {address}")
    if _on(row, "accountforwardenabled", default=False) and row.get("accountforwardaddress"):
        kept = [address] if _on(row, "accountforwardkeeporiginal", default=False) else []
        _lead(made, address, [*kept, row["accountforwardaddress"]], "hm_accounts")
    if _on(row, "accountvacationmessageon", default=False):
        made.note("hm_accounts", f"{address} answers by itself: {row.get('accountvacationsubject', '')!r}")


def _lists(made: Imported, tables: Tables) -> None:
    members: dict[str, list[str]] = {}
    for row in tables["hm_distributionlistsrecipients"]:
        members.setdefault(row["distributionlistrecipientlistid"], []).append(row["distributionlistrecipientaddress"])
    for row in tables["hm_distributionlists"]:
        address, its = row["distributionlistaddress"], members.get(row["distributionlistid"], [])
        if not _on(row, "distributionlistenabled"):
            made.note("hm_distributionlists", f"{address} is switched off")
        elif not its:
            made.note("hm_distributionlists", f"{address} has no members")
        else:
            _lead(made, address, its, "hm_distributionlists")
            _who_may_post(made, row)


def _who_may_post(made: Imported, row: Row) -> None:
    mode = _MODES.get(row.get("distributionlistmode", "0"), "who may post to it is not known")
    only = f" ({row['distributionlistrequireaddress']})" if row.get("distributionlistrequireaddress") else ""
    if row.get("distributionlistmode", "0") != "0" or _on(row, "distributionlistrequireauth", default=False):
        login = ", after logging in" if _on(row, "distributionlistrequireauth", default=False) else ""
        made.note("hm_distributionlists", f"{row['distributionlistaddress']} became a forward to its members; there {mode}{only}{login}")


def _lead(made: Imported, address: str, targets: Iterable[str], where: str) -> None:
    local, _, domain = address.lower().rpartition("@")
    made.lead(local, domain, targets, where)


def _on(row: Row, column: str, *, default: bool = True) -> bool:
    value = row.get(column, "")
    return default if value == "" else value.strip().lower() not in ("0", "false", "f", "b'0'")
