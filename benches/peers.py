"""Exim and OpenSMTPD as further peers of the accept benches: private configuration, durable, deliveries off. Need root.

Both packages conflict with Postfix's on Debian, so the programs may lie elsewhere: GATEPOST_BENCH_EXIM and GATEPOST_BENCH_OPENSMTPD name
an exim4 and an smtpd program (from packages unpacked with `dpkg -x`, for example), else they are looked for in PATH. Users are built into
both (Debian-exim; opensmtpd and opensmtpq), and so is OpenSMTPD's queue, /var/spool/smtpd. A peer that is not there is said, and left out.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from load import Load
from sides import HELD, Figure, latencies, measure
from support.processes import accepts, end, find, free_port, has_user, wait_until

EXIM_CONFIG = """\
primary_hostname = peer.example.net
spool_directory = {root}/spool
log_file_path = {root}/log/%slog
pid_file_path = {root}/exim.pid
local_interfaces = 127.0.0.1
daemon_smtp_ports = {port}
exim_user = mail
exim_group = mail
never_users =
queue_only = true
smtp_accept_max = 200
smtp_accept_queue_per_connection = 0
acl_smtp_rcpt = accept
acl_smtp_data = accept
log_selector = -all
write_rejectlog = false
keep_environment =
begin routers
none:
  driver = manualroute
  route_list = * 127.0.0.1
  transport = smtp
begin transports
smtp:
  driver = smtp
"""

OPENSMTPD_CONFIG = """\
listen on 127.0.0.1 port {port}
action "relay" relay host smtp://127.0.0.1:9
match from any for any action "relay"
"""


class _Daemon:
    """A server in the foreground, in a directory of its own."""

    def __init__(self, parent: Path, prefix: str) -> None:
        self.root = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        self.root.chmod(0o755)
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, command: list[str]) -> None:
        with (self.root / "output").open("wb") as output:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)
        wait_until(lambda: accepts("127.0.0.1", self.port), 20, f"{command[0]} listens; it said {(self.root / 'output').read_text()!r}")

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def stop(self) -> None:
        if self.process is not None:
            end(self.process)
        shutil.rmtree(self.root, ignore_errors=True)


def exim_program() -> str | None:
    """The Exim to compare with."""
    return os.environ.get("GATEPOST_BENCH_EXIM") or find("exim4") or find("exim")


class EximSide:
    """Exim with queue_only: a process per connection, the message in its spool, no delivery."""

    name = "Exim"

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @staticmethod
    def available() -> bool:
        """True when it can be started here."""
        return os.geteuid() == 0 and exim_program() is not None and has_user("Debian-exim")

    def _start(self) -> _Daemon:
        daemon = _Daemon(self.directory, "peer-exim-")
        for name in ("spool", "log"):
            (daemon.root / name).mkdir()
            shutil.chown(daemon.root / name, "mail", "mail")
        config = daemon.root / "exim.conf"
        config.write_text(EXIM_CONFIG.format(root=daemon.root, port=daemon.port))
        try:
            daemon.start([exim_program() or "exim4", "-C", str(config), "-bdf"])
        except BaseException:
            daemon.stop()
            raise
        return daemon

    def accept(self, load: Load) -> Figure:
        """Into its spool."""
        daemon = self._start()
        try:
            spool = daemon.root / "spool" / "input"
            return measure(load, daemon.port, HELD, lambda: _count(spool, "-H"), wait=False, roots=[daemon.pid])
        finally:
            daemon.stop()

    def latency(self) -> list[float]:
        """Into its spool, one by one."""
        daemon = self._start()
        try:
            return latencies(daemon.port, HELD)
        finally:
            daemon.stop()


def opensmtpd_program() -> str | None:
    """The OpenSMTPD to compare with."""
    return os.environ.get("GATEPOST_BENCH_OPENSMTPD") or find("smtpd")


class OpenSmtpdSide:
    """OpenSMTPD with deliveries paused."""

    name = "OpenSMTPD"
    spool = Path("/var/spool/smtpd")

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @staticmethod
    def available() -> bool:
        """True when it is installed with its users."""
        users = has_user("opensmtpd") and has_user("opensmtpq")
        return os.geteuid() == 0 and opensmtpd_program() is not None and users

    def _start(self) -> _Daemon:
        daemon = _Daemon(self.directory, "peer-opensmtpd-")
        config = daemon.root / "smtpd.conf"
        config.write_text(OPENSMTPD_CONFIG.format(port=daemon.port))
        self.spool.mkdir(mode=0o711, exist_ok=True)
        Path("/var/lib/opensmtpd/empty").mkdir(parents=True, exist_ok=True)
        self._empty()
        try:
            daemon.start([opensmtpd_program() or "smtpd", "-d", "-f", str(config), "-P", "mda", "-P", "mta"])
        except BaseException:
            daemon.stop()
            raise
        return daemon

    def _empty(self) -> None:
        for queue in ("queue", "incoming"):
            for entry in (self.spool / queue).glob("*"):
                shutil.rmtree(entry, ignore_errors=True)

    def accept(self, load: Load) -> Figure:
        """Into its queue."""
        daemon = self._start()
        try:
            return measure(load, daemon.port, HELD, lambda: _count(self.spool / "queue", "message"), wait=False, roots=[daemon.pid])
        finally:
            daemon.stop()
            self._empty()

    def latency(self) -> list[float]:
        """Into its queue, one by one."""
        daemon = self._start()
        try:
            return latencies(daemon.port, HELD)
        finally:
            daemon.stop()
            self._empty()


def _count(directory: Path, ending: str) -> int:
    return sum(sum(1 for name in files if name.endswith(ending)) for _, _, files in os.walk(directory))
