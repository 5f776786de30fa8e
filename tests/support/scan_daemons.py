"""The real clamd, c-icap and rspamd, each in a directory of its own, with a small local configuration and no download of anything.

The directory lies in the system's temporary directory, since the daemons run as other users there. Each is started once per module.
"""

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from support.certificates import Authority
from support.processes import accepts, end, find, free_port, wait_until
from support.scanners import EICAR

UNWANTED = b"unwanted-by-gatepost"
"""What our clamd knows as PUA.Gatepost.Test."""

CLAMD = """\
Foreground yes
LogFile {root}/log
DatabaseDirectory {root}/db
TemporaryDirectory {root}
LocalSocket {root}/clamd.sock
TCPSocket {port}
TCPAddr 127.0.0.1
StreamMaxLength 4M
MaxThreads 8
User root
OfficialDatabaseOnly no
CommandReadTimeout 30
"""

C_ICAP = """\
PidFile {root}/pid
CommandsSocket {root}/ctl
Port 127.0.0.1:{port}
{tls}
ServerLog {root}/log
AccessLog {root}/access
ModulesDir {modules}
ServicesDir {modules}
TemplateDir /usr/share/c_icap/templates
TmpDir {root}
LoadMagicFile /etc/c-icap/c-icap.magic
StartServers 1
MaxServers 1
MinSpareThreads 4
MaxSpareThreads 8
ThreadsPerChild 12
MaxKeepAliveRequests 20
KeepAliveTimeout 600
RemoteProxyUsers off
Service echo srv_echo.so
Service virus_scan virus_scan.so
virus_scan.ScanFileTypes TEXT DATA EXECUTABLE ARCHIVE GIF JPEG MSOFFICE
virus_scan.SendPercentData 0
virus_scan.PassOnError off
virus_scan.Allow204Responces on
virus_scan.MaxObjectSize 8M
virus_scan.DefaultEngine clamd
Module common clamd_mod.so
clamd_mod.ClamdSocket {clamd}
"""

RSPAMD = """\
options {{
  pidfile = "{root}/pid";
  filters = "";
  dns {{ nameserver = ["127.0.0.1:9"]; timeout = 0.1s; retransmits = 1; }}
  temp_dir = "{root}";
  gtube_patterns = "all";
  url_tld = "{root}/tld";
  disable_hyperscan = true;
}}
lua = "{root}/rspamd.lua";
logging {{ type = "file"; filename = "{root}/log"; level = "notice"; }}
worker "normal" {{ bind_socket = "127.0.0.1:{port}"; count = 1; }}
actions {{ reject = 15; rewrite_subject = 10; subject = "*** %s"; add_header = 6; greylist = 4; }}
"""

RSPAMD_LUA = """\
rspamd_config:register_symbol({
  name = 'UNWANTED', score = 7.0,
  callback = function(task)
    if not tostring(task:get_content()):find('unwanted%-by%-gatepost') then return false end
    task:set_milter_reply({ add_headers = { ['X-Spam-Status'] = 'Yes, helo=' .. (task:get_helo() or ''), ['X-Twice'] = { 'one', 'two' } },
      remove_headers = { ['X-Spam-Status'] = 0, ['X-Old'] = 1 } })
    return true, tostring(task:get_from_ip() or '')
  end
})
rspamd_config:register_symbol({
  name = 'RENAMED', score = 11.0,
  callback = function(task)
    if not tostring(task:get_content()):find('renamed%-by%-gatepost') then return false end
    task:set_milter_reply({ add_headers = { ['X-Second'] = { value = 'yes', order = 1 }, ['X-End'] = { value = 'yes', order = -1 } } })
    return true
  end
})
"""
"""Stands for the rules of a real installation: a score for UNWANTED, and header fields that tell what rspamd was told."""


class Daemon:
    """A process with a directory; `port` on 127.0.0.1 is where it listens."""

    def __init__(self, command: list[str], root: Path, port: int, tls_port: int = 0) -> None:
        self._command = [find(command[0]) or command[0], *command[1:]]
        self.root = root
        self.port = port
        self.tls_port = tls_port
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process in the foreground."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> "Daemon":
        """Start, and wait until it listens."""
        with (self.root / "output").open("ab") as output:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=self.root, start_new_session=True
            )
        wait_until(lambda: self._alive() and accepts("127.0.0.1", self.port), 30, f"{self._command[0]} listens")
        return self

    def _alive(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"{self._command[0]} has ended: {self.log()}")
        return True

    def log(self) -> str:
        """What it has said."""
        return "\n".join((self.root / name).read_text(errors="replace") for name in ("output", "log") if (self.root / name).exists())

    def signal(self, number: int) -> None:
        """To the process and all its children."""
        os.killpg(self.pid, number)

    def kill(self) -> None:
        """SIGKILL, all of it, as if the machine had."""
        if self._process is not None and self._process.poll() is None:
            self.signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait(10)
        wait_until(lambda: not accepts("127.0.0.1", self.port), 10, "its port is free")

    def restart(self) -> None:
        """Again in the same place, after a kill."""
        self.kill()
        (self.root / "clamd.sock").unlink(missing_ok=True)
        self.start()

    def stop(self) -> None:
        """End it and remove its directory."""
        if self._process is not None and self._process.poll() is None:
            self.signal(signal.SIGCONT)
            end(self._process)
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        shutil.rmtree(self.root, ignore_errors=True)


def _directory(name: str) -> Path:
    root = Path(tempfile.mkdtemp(prefix=f"peer-{name}-"))
    root.chmod(0o777)  # rspamd gives up root
    return root


def clamd() -> Daemon:
    """With two signatures: EICAR's test file, and an octet string that counts as unwanted."""
    root, port = _directory("clamd"), free_port()
    (root / "db").mkdir(mode=0o755)
    (root / "db" / "local.ndb").write_text(
        f"Eicar-Test-Signature:0:*:{EICAR.hex()}\nPUA.Gatepost.Test:0:*:{b'unwanted-by-gatepost'.hex()}\n"
    )
    config = root / "clamd.conf"
    config.write_text(CLAMD.format(root=root, port=port))
    return Daemon(["clamd", "--config-file", str(config)], root, port)


def c_icap(clamd_socket: str, authority: Authority) -> Daemon:
    """With `echo`, and `virus_scan` by that clamd; with TLS on `tls_port`, by a certificate for localhost."""
    root, port = _directory("c-icap"), free_port()
    modules = next(iter(Path("/usr/lib").glob("*/c_icap")))
    config = root / "c-icap.conf"
    authority.server_context("localhost")
    certificate, tls_port = root / "localhost.pem", free_port()
    certificate.write_bytes((authority.directory / "localhost.pem").read_bytes())
    tls = f"TlsPort 127.0.0.1:{tls_port} cert={certificate} key={certificate}"
    config.write_text(C_ICAP.format(root=root, port=port, modules=modules, clamd=clamd_socket, tls=tls))
    return Daemon(["c-icap", "-N", "-D", "-d", "1", "-f", str(config)], root, port, tls_port)


def rspamd() -> Daemon:
    """One scanning worker that knows GTUBE and nothing else."""
    root, port = _directory("rspamd"), free_port()
    (root / "tld").write_text("com\nnet\norg\ntest\n")
    (root / "rspamd.lua").write_text(RSPAMD_LUA)
    config = root / "rspamd.conf"
    config.write_text(RSPAMD.format(root=root, port=port))
    return Daemon(["rspamd", "--no-fork", "--insecure", "--config", str(config)], root, port)
