"""`gatepost scan`: what is inside a file or message, and what a policy would do with it, by the very judge of live mail.

Called by `app.main`, as the command line proper is a gRPC client and may not import the native side. A file needs no server, unless a
policy of one is named; `--queue ID` asks the server about a message of its queue. Scanners are not asked. Exit status 0: it would be taken
(perhaps with a tag or without a part); 1: it would not; 2: file, policy or server cannot be read.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gatepost.client import GatepostClient, GatepostError, find_target
from gatepost.client.values import PolicyTrial
from gatepost.message.verdict import Action
from gatepost.routing.model import RuleSet
from gatepost.scan.explain import Key, reasons
from gatepost.scan.facts import Direction, MailFacts
from gatepost.scan.files import PolicyError, load_policy, parse_policy
from gatepost.scan.header import header_of
from gatepost.scan.judge import Fate, Judgement, judge
from gatepost.scan.policies import SHIPPED, Policies
from gatepost.scan.policy import SEVERITY, Policy, Seen
from gatepost.scan.report import Found, Limits, Report, inspect

FILE_MAX = 1 << 30
"""Octets of a file that is looked into."""


def main(words: Sequence[str]) -> int:
    """Run the command."""
    parser = _parser()
    options = parser.parse_args(words)
    if bool(options.file) == bool(options.queue):
        parser.error("give a FILE, or --queue ID")
    try:
        if options.queue:
            return _queued(options)
        return _file(options)
    except OSError as fault:
        print(f"gatepost: {fault.filename}: {fault.strerror}" if fault.filename else f"gatepost: {fault}", file=sys.stderr)
        return 2
    except (PolicyError, GatepostError) as fault:
        print(f"gatepost: {fault}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gatepost scan", description="What is inside a file or message, and what the policy would do.")
    parser.add_argument("file", type=Path, metavar="FILE", nargs="?", help="a message (.eml) or an attachment")
    parser.add_argument("--queue", metavar="ID", help="a message of the server's queue instead, judged there")
    parser.add_argument("--policy", default="", metavar="NAME", help="a TOML file, shipped, none, or the name of one of the server's")
    parser.add_argument("--type", default="", metavar="TYPE", help="the media type the file claims")
    parser.add_argument("--sender", default="", metavar="ADDRESS", help="judge as if it came from here")
    parser.add_argument("--recipient", action="append", default=[], metavar="ADDRESS", help="and went there; may be repeated")
    parser.add_argument(
        "--direction", choices=[str(way) for way in Direction], default="inbound", help="which way it goes (default inbound)"
    )
    parser.add_argument("--client", default="", metavar="IP", help="address of the client")
    parser.add_argument("--user", default="", metavar="NAME", help="logged-in user")
    parser.add_argument("--seconds", type=float, default=2.0, help="time the inspection may take (default 2)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    server = parser.add_argument_group("server", "as for the other commands")
    server.add_argument("--data", type=Path, metavar="DIR", help="data directory of a server on this machine")
    server.add_argument("--server", default="", metavar="HOST:PORT", help="gRPC over TCP")
    server.add_argument("--token", default="", help="bearer token")
    server.add_argument("--ca-file", type=Path, metavar="PEM", help="authority of the server's certificate")
    return parser


# ---- a file ----------------------------------------------------------------------------------------------------------


def _file(options: argparse.Namespace) -> int:
    name, policy = _policy(options)
    data = _read(options.file)
    direction = Direction(options.direction)
    mail = MailFacts(
        options.sender,
        tuple(dict.fromkeys(options.recipient)),
        direction,
        direction is not Direction.INBOUND,
        options.client,
        user=options.user,
        size=len(data),
        header=header_of(data),
    )
    report = inspect(data, options.file.name, options.type, Limits(milliseconds=round(options.seconds * 1000)))
    found = judge(Policies(RuleSet(0, {}, {})).only(name, policy), mail, report, (), time.time())
    told = reasons([policy], Seen(report, mail))
    if options.json:
        print(json.dumps(as_json(report, found, told), indent=2, ensure_ascii=False))
    else:
        print("\n".join(_lines(report, found, told)))
    return 0 if SEVERITY[found.verdict.action] <= SEVERITY[Action.STRIP] else 1


def _read(path: Path) -> bytes:
    """Raises OSError, PolicyError for what is too long: all of it is held in memory."""
    with path.open("rb") as file:
        data = file.read(FILE_MAX + 1)
    if len(data) > FILE_MAX:
        raise PolicyError(f"{path}: longer than {FILE_MAX:,} octets, the most that is looked into")
    return data


def _policy(options: argparse.Namespace) -> tuple[str, Policy]:
    """A file's, Gatepost's own, or the server's, in this order."""
    name = options.policy or "shipped"
    if _is_file(name):
        return "file", load_policy(Path(name))
    if name in SHIPPED:
        return name, SHIPPED[name]
    return name, parse_policy(asyncio.run(_text_of(options, name)))


def _is_file(name: str) -> bool:
    return name.endswith(".toml") or "/" in name


async def _text_of(options: argparse.Namespace, name: str) -> str:
    async with _client(options) as client:
        return (await client.policies.get(name)).text


def _client(options: argparse.Namespace) -> GatepostClient:
    return GatepostClient(find_target(options.data, address=options.server, token=options.token, ca_file=options.ca_file))


def as_json(report: Report, found: Judgement, told: Mapping[Key, str]) -> dict[str, Any]:
    """Report and decision as JSON data."""
    verdict = found.verdict
    return {
        "verdict": report.verdict,
        "stop": report.stop,
        "produced": report.produced,
        "entries": [{**asdict(entry), "flags": sorted(entry.flags)} for entry in report.entries],
        "decision": {
            "action": verdict.action,
            "policy": verdict.policy,
            "rule": verdict.rule,
            "reason": verdict.reason,
            "hits": [
                {"rule": one.what, "action": one.action, "path": one.path, "why": told.get((one.path, one.what, one.action), "")}
                for one in verdict.findings
            ],
            "stripped": [one.removed.path for one in found.strip],
            "subject": found.subject,
            "copies": list(found.copies),
        },
    }


def _lines(report: Report, found: Judgement, told: Mapping[Key, str]) -> list[str]:
    stop = f" ({report.stop})" if report.stop else ""
    verdict = found.verdict
    lines = [_line(entry) for entry in report.entries]
    lines += ["", f"inspection: {report.verdict}{stop}, {len(report.entries)} entries, {report.produced:,} octets unpacked"]
    lines += [f"policy: {verdict.action}" + (f" — {printable(verdict.reason)}" if verdict.reason else "")]
    lines += [_finding(one.action, one.what, one.path, told.get((one.path, one.what, one.action), "")) for one in verdict.findings]
    return lines + _edits([one.removed.path for one in found.strip], found.subject, found.copies)


def _finding(action: str, rule: str, path: str, why: str) -> str:
    return f"  {action}: {rule}: {printable(path)}" + (f"  ({printable(why)})" if why else "")


def _edits(stripped: Sequence[str], subject: str, copies: Sequence[str]) -> list[str]:
    lines = [f"would be replaced by a notice: {printable(path)}" for path in stripped]
    lines += [f"subject would begin with: {printable(subject)}"] if subject else []
    return lines + [f"copy would go to: {printable(address)}" for address in copies]


def _line(entry: Found) -> str:
    words = [printable(entry.name) or "(no name)", entry.kind or "(closed)", f"{entry.size:,}", *sorted(entry.flags)]
    words += [f"!{defect}" for defect in entry.defects] + [f"[{printable(sign)}]" for sign in entry.signs]
    return "  " * entry.depth + "  ".join(words)


def printable(text: str) -> str:
    """Names come from strangers: nothing of them may steer a terminal, or turn its direction."""
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)


# ---- a message of the queue ------------------------------------------------------------------------------------------


def _queued(options: argparse.Namespace) -> int:
    text = ""
    if _is_file(options.policy):
        load_policy(Path(options.policy))  # its faults are told as those of the file
        text = Path(options.policy).read_text("utf-8")
    trial = asyncio.run(_try(options, text))
    if options.json:
        print(json.dumps(asdict(trial), indent=2, ensure_ascii=False))
    else:
        print("\n".join(_trial_lines(trial)))
    return 1 if any(one.fate != Fate.DELIVER for one in trial.recipients) else 0


async def _try(options: argparse.Namespace, text: str) -> PolicyTrial:
    async with _client(options) as client:
        return await client.policies.try_on(options.queue, "" if text else options.policy, text=text)


def _trial_lines(trial: PolicyTrial) -> list[str]:
    lines = [f"inspection: {trial.inspection}, {trial.entry_count} entries"]
    lines += [f"policy: {trial.action}" + (f" — {printable(trial.reason)}" if trial.reason else "")]
    lines += [_finding(one.action, one.rule, one.path, one.why) for one in trial.findings]
    lines += [f"  and {trial.omitted} more"] if trial.omitted else []
    lines += [f"{printable(one.address)}: {one.fate} (policy {one.policy})" for one in trial.recipients]
    return lines + _edits(trial.stripped, trial.subject, trial.copies)
