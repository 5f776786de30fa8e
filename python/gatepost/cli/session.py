"""What every command has: the options that find the server, --json, and the turning of errors into texts and exit codes.

`command` registers an async function as a command and adds the common options to it; the same options are taken before the
sub-command, too (the nearest to the end wins). Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 refused or not permitted,
5 server not reachable, 6 conflict (exists, changed meanwhile, in use), 130 interrupted.
"""

import asyncio
import inspect
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gatepost.cli.output import clean, print_json

if TYPE_CHECKING:  # grpc costs a quarter of a second: only a command that runs pays it
    from gatepost.client import GatepostClient

FAILED, USAGE, NOT_FOUND, REFUSED, UNREACHABLE, CONFLICT, INTERRUPTED = 1, 2, 3, 4, 5, 6, 130


def _text(flag: str, metavar: str, help_text: str) -> Any:
    return Annotated[str | None, typer.Option(flag, metavar=metavar, help=help_text)]


_COMMON: dict[str, Any] = {
    "data": _text("--data", "DIR", "Data directory of the server [env: GATEPOST_DATA; else ./var]"),
    "server": _text("--server", "HOST:PORT", "Server over TCP instead [env: GATEPOST_SERVER]"),
    "token": _text("--token", "SECRET", "Token for --server [env: GATEPOST_TOKEN]"),
    "ca_file": _text("--ca-file", "FILE", "Trust these certificates for --server"),
    "cert_file": _text("--cert-file", "FILE", "Client certificate for --server"),
    "key_file": _text("--key-file", "FILE", "Key of the client certificate"),
    "server_name": _text("--server-name", "NAME", "Name that the server's certificate has"),
    "no_tls": Annotated[bool | None, typer.Option("--no-tls", help="Plain text to --server")],
    "timeout": Annotated[float | None, typer.Option("--timeout", metavar="SECONDS", min=0.1, help="Deadline of each call [30]")],
    "as_json": Annotated[bool | None, typer.Option("--json", help="Print JSON")],
}


class CommandError(Exception):
    """A command cannot go on; the text goes to standard error, the code is the exit status."""

    def __init__(self, text: str, code: int = FAILED) -> None:
        super().__init__(text)
        self.code = code


@dataclass(slots=True)
class Session:
    """The common options of one run."""

    values: dict[str, Any] = field(default_factory=dict)

    @property
    def json(self) -> bool:
        """--json was given."""
        return bool(self.values.get("as_json"))

    def client(self) -> "GatepostClient":
        """A client of the server meant. Raises GatepostError when it cannot be guessed."""
        from gatepost.client import GatepostClient, find_target

        values = self.values
        target = find_target(
            values.get("data"),
            address=values.get("server") or "",
            token=values.get("token") or "",
            ca_file=values.get("ca_file"),
            certificate_file=values.get("cert_file"),
            key_file=values.get("key_file"),
            server_name=values.get("server_name") or "",
            plaintext=bool(values.get("no_tls")),
        )
        return GatepostClient(target, timeout=values.get("timeout") or 30.0)

    def done(self, value: Any, text: str) -> None:
        """Report a change: the value as JSON, or a sentence."""
        if self.json:
            print_json(value)
        else:
            print(text)


Command = Callable[..., Awaitable[None]]


Options = dict[str, tuple[Any, Any]]
"""Options that several commands share: name → (annotation, default). The function gets their values as one dict, `options`."""


def command(app: typer.Typer, name: str, *, options: Options | None = None, **settings: Any) -> Callable[[Command], Command]:
    """Register `async def f(session, …)` as a command of `app`, with the common options (and `options`) added."""
    shared = options or {}
    keyword = inspect.Parameter.KEYWORD_ONLY

    def register(function: Command) -> Command:
        own = [one for one in list(inspect.signature(function, eval_str=True).parameters.values())[1:] if one.name != "options"]
        extra = [inspect.Parameter(key, keyword, default=default, annotation=kind) for key, (kind, default) in shared.items()]

        def run(ctx: typer.Context, **arguments: Any) -> None:
            remember(ctx, arguments)
            values = {one.name: arguments[one.name] for one in own}
            if shared:
                values["options"] = {key: arguments[key] for key in shared}
            _run(function, Session(ctx.obj), values)

        _sign(run, [*own, *extra])
        run.__doc__ = function.__doc__
        app.command(name, **settings)(run)
        return function

    return register


def group(help_text: str) -> typer.Typer:
    """A group of commands that takes the common options as well."""
    app = typer.Typer(no_args_is_help=True, help=help_text, pretty_exceptions_enable=False, rich_markup_mode=None)
    take_common_options(app, help_text)
    return app


def take_common_options(app: typer.Typer, help_text: str) -> None:
    """Make `app` take the common options before the sub-command."""

    def callback(ctx: typer.Context, **arguments: Any) -> None:
        remember(ctx, arguments)

    _sign(callback, [])
    callback.__doc__ = help_text
    app.callback()(callback)


def remember(ctx: typer.Context, arguments: dict[str, Any]) -> None:
    """Keep the common options given here; those given nearer to the end win."""
    known = dict(ctx.obj or {})
    known.update({name: arguments[name] for name in _COMMON if arguments.get(name) is not None})
    ctx.obj = known


def _sign(function: Callable[..., Any], own: list[inspect.Parameter]) -> None:
    """Give `function` the signature that typer is to see."""
    context = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    keyword = inspect.Parameter.KEYWORD_ONLY
    mine = [one.replace(kind=keyword) for one in own]
    common = [inspect.Parameter(name, keyword, default=None, annotation=annotation) for name, annotation in _COMMON.items()]
    signature = inspect.Signature([context, *mine, *common])
    function.__signature__ = signature  # type: ignore[attr-defined]
    function.__annotations__ = {name: one.annotation for name, one in signature.parameters.items()}


def _run(function: Command, session: Session, arguments: dict[str, Any]) -> None:
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # read by grpc when it is imported: its notes are not for our users
    from gatepost.client.errors import GatepostError

    try:
        asyncio.run(function(session, **arguments))  # type: ignore[arg-type]  # every command is a coroutine function
    except CommandError as error:
        fail(session, str(error), error.code)
    except GatepostError as error:
        fail(session, str(error), exit_code(error), error.status)
    except ValueError as error:
        fail(session, str(error), USAGE)
    except BrokenPipeError:
        raise
    except OSError as error:
        fail(session, f"{error.filename}: {error.strerror}" if error.filename else str(error), FAILED)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def fail(session: Session, text: str, code: int, status: str = "") -> None:
    """Say what went wrong on standard error and end with the code."""
    if session.json:
        import json

        print(json.dumps({"error": text, "status": status, "exit_code": code}, ensure_ascii=False), file=sys.stderr)
    else:
        print(f"gatepost: {text}", file=sys.stderr)
    raise typer.Exit(code)


def warn(text: str) -> None:
    """A line on standard error: the answer is good, but not whole."""
    print(f"gatepost: {text}", file=sys.stderr)


def saved(session: Session, made: Any) -> None:
    """Tell what is odd about what was saved: `made.warnings`. JSON has them in its answer."""
    for text in made.warnings if not session.json else ():
        warn(clean(text))


def exit_code(error: Exception) -> int:
    """The exit status for an error of the SDK."""
    from gatepost.client import errors

    table: tuple[tuple[type[Exception], int], ...] = (
        (errors.NotFoundError, NOT_FOUND),
        (errors.PermissionDeniedError, REFUSED),
        (errors.RefusedError, REFUSED),
        (errors.ServerRefusedError, REFUSED),
        (errors.ConflictError, CONFLICT),
        (errors.UnavailableError, UNREACHABLE),
        (errors.InvalidRequestError, USAGE),
    )
    return next((code for kind, code in table if isinstance(error, kind)), FAILED)


def confirm(question: str, *, yes: bool) -> None:
    """Ask on a terminal; elsewhere --yes must have been given. Raises CommandError when it is not to be done."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise CommandError(f"{question} Give --yes to do it without being asked.", USAGE)
    if not typer.confirm(question):
        raise CommandError("nothing was changed", FAILED)
