"""What `serve` prints when it is ready: what listens where, and commands to paste. To standard output, for a person.

Called once by the supervisor. With the demo set-up it shows new passwords once and where they are kept.
"""

from collections.abc import Mapping

from gatepost.app.demo import DOMAIN, password_file
from gatepost.config import Settings

ROWS = (
    ("smtp", "SMTP", "mail from other servers"),
    ("submission", "submission", "mail programs send here (STARTTLS)"),
    ("submissions", "submissions", "the same, TLS from the start"),
    ("lmtp", "LMTP", ""),
    ("pop3", "POP3", "STLS"),
    ("pop3s", "POP3S", ""),
    ("imap", "IMAP", "STARTTLS"),
    ("imaps", "IMAPS", ""),
    ("control_tcp", "gRPC", "bearer token or client certificate"),
)


def show(settings: Settings, published: Mapping[str, object], passwords: Mapping[str, str], *, demo: bool) -> None:
    """Print it."""
    print(f"Gatepost is ready. Data: {settings.data}")
    for key, name, note in ROWS:
        addresses = published.get(key)
        if isinstance(addresses, list) and addresses:
            print(f"  {name:<12} {', '.join(addresses):<24} {note}".rstrip())
    print(f"  {'gRPC':<12} {settings.data / 'control.sock'}  (no password: file permissions)")
    if passwords:
        print(f"\nNew users (shown once, kept in {password_file(settings.data)}):")
        for address, password in passwords.items():
            print(f"  {address}  {password}")
    if demo:
        _show_first_steps(settings, published)
    print("\nStop with Ctrl-C.", flush=True)


def _show_first_steps(settings: Settings, published: Mapping[str, object]) -> None:
    smtp, imaps = _first(published, "smtp"), _first(published, "imaps")
    if not smtp or not imaps:
        return
    passwords = password_file(settings.data)
    data = settings.data
    print("\nPaste in another terminal:")
    print("  # send a mail to alice")
    print(
        f"  printf 'From: bob@{DOMAIN}\\r\\nTo: alice@{DOMAIN}\\r\\nSubject: hello\\r\\n\\r\\nFirst mail.\\r\\n' |"
        f" curl -sS smtp://{smtp} --mail-from bob@{DOMAIN} --mail-rcpt alice@{DOMAIN} -T -"
    )
    print("  # list the queue (empty when all is delivered)")
    print(f"  .venv/bin/gatepost queue list --data {data}")
    print("  # read alice's mailbox")
    print(f"  curl -sS -k 'imaps://{imaps}/INBOX;MAILINDEX=1' -u alice@{DOMAIN}:$(awk '/^alice@/{{print $2}}' {passwords})")


def _first(published: Mapping[str, object], key: str) -> str:
    addresses = published.get(key)
    return str(addresses[0]) if isinstance(addresses, list) and addresses else ""
