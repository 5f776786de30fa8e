"""A private Postfix: own configuration, queue and ports in one directory, started and stopped as a whole. Needs root.

Used by the integration tests as the neighbour and by benches/ as the peer. The directory must be reachable by the user `postfix`,
so it lies in the system's temporary directory, not in pytest's. Nothing of the machine's own Postfix is read but its programs.
"""

import os
import pwd
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from support.processes import accepts, end, find, free_port, run, wait_until

SERVICES = """\
127.0.0.1:{port} inet n - n - {processes} smtpd
pickup    unix n - n 60 1 pickup
cleanup   unix n - n - 0 cleanup
qmgr      unix n - n 300 1 qmgr
tlsmgr    unix - - n 1000? 1 tlsmgr
rewrite   unix - - n - - trivial-rewrite
bounce    unix - - n - 0 bounce
defer     unix - - n - 0 bounce
trace     unix - - n - 0 bounce
verify    unix - - n - 1 verify
flush     unix n - n 1000? 0 flush
proxymap  unix - - n - - proxymap
smtp      unix - - n - - smtp
relay     unix - - n - - smtp
showq     unix n - n - - showq
error     unix - - n - - error
retry     unix - - n - - error
discard   unix - - n - - discard
local     unix - n n - - local
virtual   unix - n n - - virtual
lmtp      unix - - n - - lmtp
anvil     unix - - n - 1 anvil
scache    unix - - n - 1 scache
postlog   unix-dgram n - n - 1 postlogd
"""

SETTINGS = """\
compatibility_level = 3.6
queue_directory = {root}/queue
data_directory = {root}/data
command_directory = {commands}
daemon_directory = {daemons}
mail_owner = postfix
setgid_group = postdrop
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = peer.example.net
mydestination =
mynetworks = 127.0.0.0/8
alias_maps =
alias_database =
local_recipient_maps =
smtputf8_enable = no
smtpd_peername_lookup = no
smtp_host_lookup = native
disable_dns_lookups = yes
"""


def available() -> bool:
    """True when a private Postfix can be started here."""
    return os.geteuid() == 0 and find("postfix") is not None


class Postfix:
    """One instance. `settings` are main.cf lines that come last; `log` keeps its log in DIR/log (costs time: off in benches)."""

    def __init__(self, settings: str = "", *, log: bool = True, processes: int = 100, parent: Path | None = None) -> None:
        self.port = free_port()
        self.root = Path(tempfile.mkdtemp(prefix="peer-postfix-", dir=parent))
        self.config, self.queue = self.root / "etc", self.root / "queue"
        self.log_file = self.root / "log"
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._write(settings, log, processes)
        except BaseException:
            shutil.rmtree(self.root, ignore_errors=True)
            raise

    def _write(self, settings: str, log: bool, processes: int) -> None:
        self.root.chmod(0o755)
        for directory in (self.config, self.queue, self.root / "data"):
            directory.mkdir(mode=0o755)
        shutil.chown(self.root / "data", pwd.getpwnam("postfix").pw_uid)
        built_in = {name: run(["postconf", "-dh", name]).stdout.strip() for name in ("daemon_directory", "command_directory")}
        text = SETTINGS.format(root=self.root, daemons=built_in["daemon_directory"], commands=built_in["command_directory"])
        if log:
            text += f"maillog_file = {self.log_file}\nmaillog_file_prefixes = {self.root}\n"
        (self.config / "main.cf").write_text(text + settings)
        (self.config / "master.cf").write_text(SERVICES.format(port=self.port, processes=processes))

    def __enter__(self) -> "Postfix":
        postfix = find("postfix") or "postfix"
        output = (self.root / "output").open("wb")
        self._process = subprocess.Popen(
            [postfix, "-c", str(self.config), "start-fg"], stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
        output.close()
        try:
            wait_until(lambda: self._alive() and accepts("127.0.0.1", self.port), 20, "Postfix listens")
        except BaseException:
            self.__exit__()
            raise
        return self

    def _alive(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"Postfix has ended: {(self.root / 'output').read_text()}\n{self.log()}")
        return True

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            run(["postfix", "-c", str(self.config), "stop"], check=False)
            end(self._process)
        shutil.rmtree(self.root, ignore_errors=True)

    @property
    def pid(self) -> int:
        """The process above all its daemons."""
        assert self._process is not None
        return self._process.pid

    def log(self) -> str:
        """What it has logged so far."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def queued(self, *queues: str) -> int:
        """Messages in the named queues ('incoming', 'active', 'deferred', 'hold'; all when none is named)."""
        count = 0
        for name in queues or ("maildrop", "incoming", "active", "deferred", "hold"):
            for _, _, files in os.walk(self.queue / name):
                count += sum(1 for file in files if re.fullmatch(r"[0-9A-Za-z]+", file))
        return count

    def flush(self) -> None:
        """Try everything that is deferred now."""
        run(["postqueue", "-c", str(self.config), "-f"])

    def clear(self) -> None:
        """Delete whatever is queued."""
        run(["postsuper", "-c", str(self.config), "-d", "ALL"], seconds=120)
