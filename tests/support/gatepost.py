"""The real `gatepost serve` as a subprocess, on free ports, with its data in a temporary directory; driven by the real CLI.

`Gatepost(directory, smtp={"max_hops": 5}, workers=2)` writes gatepost.toml from its keyword arguments (tables for mappings), starts the
server on a directory that has the users already, waits until it says it is ready, and kills it with all its workers at the end. Its output
goes to DIR/server.log, shown on failure.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gatepost.directory import Directory
from gatepost.routing.model import DomainRule, RuleKind
from support.processes import wait_until

LISTENERS = ("smtp", "submission", "submissions", "lmtp", "pop3", "pop3s", "imap", "imaps", "control_tcp")
PROGRAM = Path(sys.executable).with_name("gatepost")

ALICE = "alice@example.test"
BOB = "bob@example.test"
PASSWORD = "correct horse battery staple"


def toml(settings: Mapping[str, Any]) -> str:
    """Settings as TOML: scalars first, then a table for each mapping. JSON's scalars and lists are TOML's too."""
    plain = [f"{key} = {json.dumps(value)}" for key, value in settings.items() if not isinstance(value, Mapping)]
    tables = [f"\n[{key}]\n{toml(value)}" for key, value in settings.items() if isinstance(value, Mapping)]
    return "\n".join(plain) + "\n" + "".join(tables)


@cache
def _directory_with(users: tuple[str, ...]) -> bytes:
    """A directory.db with the users and their domains, all with PASSWORD; made once, since commands and hashing take their time."""
    with TemporaryDirectory(prefix="gatepost-users-") as scratch:
        path = Path(scratch) / "directory.db"
        directory = Directory(path, migrate=True)
        for domain in sorted({user.rpartition("@")[2] for user in users}):
            directory.put_rule(DomainRule(domain, RuleKind.HOSTED), create=True, author="test")
        for user in users:
            directory.add_user(user, PASSWORD, author="test")
        directory.close()
        return path.read_bytes()


class CommandFailed(AssertionError):
    """The CLI ended with a status other than 0; `status` and `output` say which and why."""

    def __init__(self, arguments: Sequence[str], status: int, output: str) -> None:
        super().__init__(f"gatepost {' '.join(arguments)} ended with {status}:\n{output}")
        self.status, self.output = status, output


class Gatepost:
    """One server. Every keyword is a setting; `listen` entries not given get a free port on 127.0.0.1."""

    def __init__(
        self, directory: Path, *, users: Sequence[str] = (ALICE, BOB), environment: Mapping[str, str] | None = None, **settings: Any
    ) -> None:
        self.environment = environment
        """Of the server's process; the test's own when None."""
        self.data = directory / "data"
        self.config = directory / "gatepost.toml"
        self.log_file = directory / "server.log"
        self.users = tuple(users)
        self.settings: dict[str, Any] = {"hostname": "gatepost.example.test", "workers": 1, **settings}
        self.settings["listen"] = {**{name: ["127.0.0.1:0"] for name in LISTENERS}, **settings.get("listen", {})}
        self.process: subprocess.Popen[bytes] | None = None

    # ---- life ----

    def add_users(self) -> None:
        """Before the first start: host the users' domains and add them, all with PASSWORD."""
        self.data.mkdir(mode=0o700, parents=True)
        file = self.data / "directory.db"
        file.touch(mode=0o600)
        file.write_bytes(_directory_with(self.users))

    def write_config(self) -> None:
        """Write gatepost.toml from `settings` anew (before a start, or before SIGHUP)."""
        self.config.write_text(toml(self.settings))

    def start(self, seconds: float = 60) -> "Gatepost":
        """Start and wait until it takes connections. AssertionError with its log when it does not."""
        self.write_config()
        endpoints = self.data / "run" / "endpoints.json"
        endpoints.unlink(missing_ok=True)
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [str(PROGRAM), "serve", "--data", str(self.data), "--config", str(self.config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=self.environment,
            )
        try:
            wait_until(lambda: self._running() and self.cli_ready(), seconds, "gatepost is ready")
        except (AssertionError, RuntimeError) as problem:
            self.kill()
            raise AssertionError(f"{problem}\n{self.log()}") from problem
        return self

    def _running(self) -> bool:
        if self.process is None or self.process.poll() is not None:
            raise RuntimeError("gatepost has ended")
        return True

    def cli_ready(self) -> bool:
        """True when the endpoints are published and every worker has a process."""
        workers = self.endpoints().get("workers", [])
        return len(workers) >= self.settings["workers"] and all(worker["pid"] for worker in workers)

    def stop(self, seconds: float = 15) -> float:
        """SIGTERM and wait. Returns the seconds it took; AssertionError when it takes too long or fails."""
        assert self.process is not None
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"gatepost did not stop within {seconds:g} s of SIGTERM:\n{self.log()}") from None
        assert status == 0, f"gatepost ended with {status}:\n{self.log()}"
        self.process = None
        return time.monotonic() - began

    def kill(self) -> None:
        """SIGKILL to the server and its workers; nothing is left behind."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)
            self.process = None

    def reload(self) -> None:
        """Write the settings and send SIGHUP."""
        assert self.process is not None
        self.write_config()
        self.process.send_signal(signal.SIGHUP)

    def __enter__(self) -> "Gatepost":
        if self.users:
            self.add_users()
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            print(f"---- {self.log_file} ----\n{self.log()[-20000:]}", file=sys.stderr)
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(12)
        self.kill()

    # ---- what it says of itself ----

    def endpoints(self) -> dict[str, Any]:
        """DIR/run/endpoints.json: addresses by listener, and the workers."""
        loaded: dict[str, Any] = json.loads((self.data / "run" / "endpoints.json").read_text())
        return loaded

    def port(self, listener: str) -> int:
        """The TCP port of the listener's first address."""
        return int(self.endpoints()[listener][0].rpartition(":")[2])

    def worker_pids(self) -> list[int]:
        """Process ids of the workers, by number."""
        return [worker["pid"] for worker in sorted(self.endpoints()["workers"], key=lambda worker: worker["index"])]

    @property
    def pid(self) -> int:
        """The supervisor's process id."""
        assert self.process is not None
        return self.process.pid

    def log(self) -> str:
        """What it has written so far."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    # ---- the CLI ----

    def cli(self, *arguments: str, text: str | None = None, seconds: float = 30) -> str:
        """Run the real `gatepost` command against this server. Returns stdout; CommandFailed when it fails."""
        done = subprocess.run(
            [str(PROGRAM), *arguments, "--data", str(self.data)],
            input=text,
            stdin=subprocess.DEVNULL if text is None else None,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        if done.returncode != 0:
            raise CommandFailed(arguments, done.returncode, done.stdout + done.stderr)
        return done.stdout

    def json(self, *arguments: str, text: str | None = None) -> Any:
        """The same with --json, parsed."""
        return json.loads(self.cli(*arguments, "--json", text=text))

    def queue(self, *filters: str) -> list[dict[str, Any]]:
        """What `queue list --json` shows."""
        listed = self.json("queue", "list", *filters)
        found: list[dict[str, Any]] = listed if isinstance(listed, list) else listed["messages"]
        return found


@contextmanager
def start_gatepost(directory: Path, **settings: Any) -> Iterator[Gatepost]:
    """A running server with alice and bob in example.test; gone at the end."""
    with Gatepost(directory, **settings) as server:
        yield server
