"""The typer application, and `main`, which runs it and answers with an exit code (see cli.session). Called by gatepost.app.main.

`serve` and `scan` belong to app/, because the CLI may not import the server; their entries here only make them show in --help.
"""

import sys
from collections.abc import Sequence

import typer

from gatepost.cli import (
    directory,
    events,
    explain,
    lists,
    mime,
    policies,
    quarantine,
    queue,
    rules,
    rulesets,
    sender,
    server,
    stage,
    trace,
    trust,
)
from gatepost.cli import queue_actions as _queue_actions  # noqa: F401  # adds its commands to the queue's
from gatepost.cli.session import command, take_common_options

HELP = "Manage a Gatepost mail server. Start one with: gatepost serve --data DIR"

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None, help=HELP)
take_common_options(app, HELP)

command(app, "status")(server.status)
command(app, "explain")(explain.explain)
command(app, "events")(events.events)
command(app, "send")(server.send)
command(app, "mime")(mime.mime)
command(app, "trace", options=trace.FILTER)(trace.trace)
app.add_typer(queue.app, name="queue")
app.add_typer(quarantine.app, name="quarantine")
app.add_typer(rules.domain_app, name="domain")
app.add_typer(directory.user_app, name="user")
app.add_typer(rules.rule_app, name="rule")
app.add_typer(rulesets.rules_app, name="rules")
app.add_typer(rules.handler_app, name="handler")
app.add_typer(lists.list_app, name="list")
app.add_typer(policies.policy_app, name="policy")
app.add_typer(trust.trust_app, name="trust")
app.add_typer(sender.sender_app, name="sender")
app.add_typer(stage.stage_app, name="stage")
app.add_typer(directory.mailbox_app, name="mailbox")
app.add_typer(directory.volume_app, name="volume")
app.add_typer(directory.token_app, name="token")
command(app, "reload")(server.reload)
command(app, "stop")(server.stop)
command(app, "audit")(server.audit)
command(app, "version")(server.version)


@app.command("serve", help="Start the mail server; `gatepost serve --help` has its options.", add_help_option=False)
def _serve() -> None:
    print("gatepost: put `serve` first: gatepost serve --data DIR", file=sys.stderr)
    raise typer.Exit(2)


@app.command("scan", help="Tell what is inside a file and what the policy would do; see `gatepost scan --help`.", add_help_option=False)
def _scan() -> None:
    print("gatepost: put `scan` first: gatepost scan FILE", file=sys.stderr)
    raise typer.Exit(2)


@app.command("scanners", help="Ask each configured scanner about a test file; see `gatepost scanners --help`.", add_help_option=False)
def _scanners() -> None:
    print("gatepost: put `scanners` first: gatepost scanners", file=sys.stderr)
    raise typer.Exit(2)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code."""
    try:
        app(args=list(sys.argv[1:] if argv is None else argv), prog_name="gatepost")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1 if ended.code else 0
    return 0
