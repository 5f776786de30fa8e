"""A private Dovecot 2.3: LMTP and IMAP on loopback, Maildirs in one directory. Needs root. The peer of the mailbox bench."""

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

from support.processes import accepts, end, find, free_port, run, wait_until

PASSWORD = "peer-secret"

CONFIG = """\
protocols = imap lmtp
listen = 127.0.0.1
base_dir = {root}/run
state_dir = {root}/state
log_path = {root}/log
ssl = no
disable_plaintext_auth = no
default_internal_user = dovecot
default_login_user = dovenull
first_valid_uid = 1
mail_location = maildir:{root}/mail/%u
auth_mechanisms = plain
passdb {{
  driver = static
  args = password={password}
}}
userdb {{
  driver = static
  args = uid={uid} gid={gid} home={root}/mail/%u allow_all_users=yes
}}
service imap-login {{
  chroot =
  inet_listener imap {{
    port = {imap_port}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
service auth {{
  unix_listener {root}/sasl {{
    mode = 0666
  }}
}}
service lmtp {{
  process_min_avail = 4
  inet_listener lmtp {{
    address = 127.0.0.1
    port = {lmtp_port}
  }}
}}
"""


def available() -> bool:
    """True when a private Dovecot of the syntax above can be started here."""
    return os.geteuid() == 0 and find("dovecot") is not None and run(["dovecot", "--version"]).stdout.startswith("2.3")


class Dovecot:
    """One instance; any user name is a mailbox, with the password PASSWORD."""

    def __init__(self, parent: Path | None = None) -> None:
        self.imap_port, self.lmtp_port = free_port(), free_port()
        self.root = Path(tempfile.mkdtemp(prefix="peer-dovecot-", dir=parent))
        self.root.chmod(0o755)
        owner = pwd.getpwnam("mail")
        mail = self.root / "mail"
        mail.mkdir()
        os.chown(mail, owner.pw_uid, owner.pw_gid)
        text = CONFIG.format(
            root=self.root,
            password=PASSWORD,
            uid=owner.pw_uid,
            gid=owner.pw_gid,
            imap_port=self.imap_port,
            lmtp_port=self.lmtp_port,
        )
        self._config = self.root / "dovecot.conf"
        self._config.write_text(text)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Dovecot":
        self._process = subprocess.Popen(
            [find("dovecot") or "dovecot", "-F", "-c", str(self._config)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=(self.root / "output").open("wb"),
        )
        try:
            wait_until(lambda: accepts("127.0.0.1", self.lmtp_port) and accepts("127.0.0.1", self.imap_port), 20, "Dovecot listens")
        except BaseException:
            message = (self.root / "output").read_text() + self.log()
            self.__exit__()
            raise AssertionError(f"Dovecot did not start: {message}") from None
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            end(self._process)
        shutil.rmtree(self.root, ignore_errors=True)

    @property
    def sasl(self) -> Path:
        """The socket at which a Postfix asks for logins (smtpd_sasl_path)."""
        return self.root / "sasl"

    @property
    def pid(self) -> int:
        """The master process."""
        assert self._process is not None
        return self._process.pid

    def log(self) -> str:
        """What it has logged so far."""
        file = self.root / "log"
        return file.read_text(errors="replace") if file.exists() else ""

    def messages(self, user: str) -> int:
        """Files in the user's INBOX, without asking the server."""
        count = 0
        for part in ("new", "cur"):
            directory = self.root / "mail" / user / part
            if directory.is_dir():
                with os.scandir(directory) as entries:
                    count += sum(1 for _ in entries)
        return count
