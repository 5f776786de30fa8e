"""hMailServer's own backup (hMailServerBackup.xml, out of the backup's archive) as the tables that its database has.

Called by cli/imports.py; import_hmailserver.convert makes rules of the tables, so that both forms carry over, and leave out, the same.
Read by the names of elements wherever they stand; settings, folders and messages are not looked at. Pure. Fails with ValueError for what
is no such file. A DOCTYPE is refused: a backup has none, and entities can grow without bound.
"""

from collections.abc import Iterator, Mapping
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from gatepost.cli.import_hmailserver import TABLES, Row, Tables

_DOMAIN = {
    "Name": "domainname",
    "Active": "domainactive",
    "Postmaster": "domainpostmaster",
    "MaxMessageSize": "domainmaxmessagesize",
    "DKIMSelector": "domaindkimselector",
    "EnableSignature": "domainenablesignature",
}
_ACCOUNT = {
    "Name": "accountaddress",
    "Active": "accountactive",
    "ForwardEnabled": "accountforwardenabled",
    "ForwardAddress": "accountforwardaddress",
    "ForwardKeepOriginal": "accountforwardkeeporiginal",
    "VacationMessageOn": "accountvacationmessageon",
    "VacationSubject": "accountvacationsubject",
}
_ALIAS = {"Name": "aliasname", "Value": "aliasvalue", "Active": "aliasactive"}
_LIST = {
    "Name": "distributionlistaddress",
    "Active": "distributionlistenabled",
    "RequiresAuth": "distributionlistrequireauth",
    "RequiresAuthAddress": "distributionlistrequireaddress",
    "ListMode": "distributionlistmode",
}
_ROUTE = {
    "Name": "routedomainname",
    "TargetHost": "routetargetsmthost",
    "TargetPort": "routetargetsmtport",
    "NumberOfTries": "routenooftries",
    "MinutesBetweenTry": "routeminutesbetweentry",
    "ToAllAddresses": "routealladdresses",
    "RequiresAuthentication": "routeuseauthentication",
    "Username": "routeauthenticationusername",
    "ConnectionSecurity": "routeconnectionsecurity",
}


def read_backup(text: str) -> Tables:
    """The tables. Raises ValueError."""
    if "<!DOCTYPE" in text[:4096].upper() or "<!ENTITY" in text.upper():
        raise ValueError("a backup of hMailServer has no DOCTYPE and no entities")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise ValueError(f"it is no XML: {error}") from None
    found: dict[str, list[Row]] = {name: [] for name in TABLES}
    for number, domain in enumerate(root.iter("Domain"), 1):
        _domain(found, str(number), domain)
    for number, route in enumerate(root.iter("Route"), 1):
        _route(found, str(number), route)
    return found


def _domain(found: dict[str, list[Row]], identity: str, domain: Element) -> None:
    found["hm_domains"].append({"domainid": identity, **_named(domain, _DOMAIN)})
    found["hm_domain_aliases"] += [{"dadomainid": identity, "daalias": name} for name in _names(domain, "DomainAlias")]
    found["hm_accounts"] += [_named(one, _ACCOUNT) for one in domain.iter("Account")]
    found["hm_aliases"] += [_named(one, _ALIAS) for one in domain.iter("Alias")]
    for number, one in enumerate(domain.iter("DistributionList")):
        its = f"{identity}.{number}"
        found["hm_distributionlists"].append({"distributionlistid": its, **_named(one, _LIST)})
        found["hm_distributionlistsrecipients"] += [
            {"distributionlistrecipientlistid": its, "distributionlistrecipientaddress": name} for name in _names(one, "Recipient")
        ]


def _route(found: dict[str, list[Row]], identity: str, route: Element) -> None:
    row = _named(route, _ROUTE)
    if route.get("UseSSL") == "1":  # as of versions before 5.5
        row = {**row, "routeconnectionsecurity": "1"}
    found["hm_routes"].append({"routeid": identity, **row})
    found["hm_routeaddresses"] += [{"routeaddressrouteid": identity, "routeaddressaddress": name} for name in _names(route, "RouteAddress")]


def _named(element: Element, columns: Mapping[str, str]) -> dict[str, str]:
    if not element.get("Name"):
        raise ValueError(f"a {element.tag} has no Name")
    return {column: element.get(attribute, "") for attribute, column in columns.items()}


def _names(element: Element, tag: str) -> Iterator[str]:
    return (one.get("Name", "") for one in element.iter(tag) if one.get("Name"))
