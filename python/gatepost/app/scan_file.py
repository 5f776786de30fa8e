"""`gatepost scan FILE`: what is inside a file or message, and what the policy would do with it. Needs no server.

Called by `app.main`, as the command line proper is a gRPC client and may not import the native side. Exit status 0: it would be taken
(perhaps with a tag); 1: it would not; 2: the file or the policy cannot be read.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gatepost.message.verdict import Action
from gatepost.scan.files import PolicyError, load_policy
from gatepost.scan.policy import DEFAULT, SEVERITY, Decision, Seen, decide
from gatepost.scan.report import Found, Limits, Report, inspect


def main(words: Sequence[str]) -> int:
    """Run the command."""
    options = _parser().parse_args(words)
    try:
        policy = load_policy(options.policy) if options.policy else DEFAULT
        data = options.file.read_bytes()
    except (PolicyError, OSError) as fault:
        print(f"gatepost: {fault}", file=sys.stderr)
        return 2
    report = inspect(data, options.file.name, options.type, Limits(milliseconds=round(options.seconds * 1000)))
    decision = decide(policy, Seen(report))
    if options.json:
        print(json.dumps(as_json(report, decision), indent=2, ensure_ascii=False))
    else:
        print("\n".join(_lines(report, decision)))
    return 0 if SEVERITY[decision.action] <= SEVERITY[Action.COPY] else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gatepost scan", description="What is inside a file or message, and what the policy would do.")
    parser.add_argument("file", type=Path, metavar="FILE", help="a message (.eml) or an attachment")
    parser.add_argument("--policy", type=Path, metavar="TOML", help="rules to try instead of the shipped ones")
    parser.add_argument("--type", default="", metavar="TYPE", help="the media type the file claims")
    parser.add_argument("--seconds", type=float, default=2.0, help="time it may take (default 2)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def as_json(report: Report, decision: Decision) -> dict[str, Any]:
    """Report and decision as JSON data."""
    return {
        "verdict": report.verdict,
        "stop": report.stop,
        "produced": report.produced,
        "entries": [{**asdict(entry), "flags": sorted(entry.flags)} for entry in report.entries],
        "decision": {
            "action": decision.action,
            "reason": decision.reason,
            "hits": [{"rule": hit.rule.name, "action": hit.action, "path": hit.path, "reason": hit.reason} for hit in decision.hits],
        },
    }


def _lines(report: Report, decision: Decision) -> list[str]:
    stop = f" ({report.stop})" if report.stop else ""
    lines = [_line(entry) for entry in report.entries]
    lines += ["", f"inspection: {report.verdict}{stop}, {len(report.entries)} entries, {report.produced:,} octets unpacked"]
    lines += [f"policy: {decision.action}" + (f" — {printable(decision.reason)}" if decision.reason else "")]
    lines += [f"  {hit.action}: {hit.rule.name}: {printable(hit.path)}" for hit in decision.hits]
    return lines


def _line(entry: Found) -> str:
    words = [printable(entry.name) or "(no name)", entry.kind or "(closed)", f"{entry.size:,}", *sorted(entry.flags)]
    words += [f"!{defect}" for defect in entry.defects] + [f"[{printable(sign)}]" for sign in entry.signs]
    return "  " * entry.depth + "  ".join(words)


def printable(text: str) -> str:
    """Names come from strangers: nothing of them may steer a terminal, or turn its direction."""
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)
