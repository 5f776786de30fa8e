"""What a worker needs only behind its first greeting: IMAP and POP3 servers, the control plane's services, DNS, `cryptography`.

Imported by app.wiring in a thread, when mail is taken already: a third of what a worker imports. The last imports here are of modules that
others import where they need them; whoever needs one then finds it there. Fails as its parts do.
"""

import cryptography.x509  # noqa: F401  # server.tls, delivery.tls

import gatepost.delivery.dns_question  # delivery.resolver
import gatepost.policy.mail_auth.dkim_octets  # noqa: F401  # policy.mail_auth.dkim
from gatepost.app.wiring import MailServer, WorkerParts
from gatepost.control.access import Access
from gatepost.control.events import EventsServicer
from gatepost.control.history import HistoryServicer
from gatepost.control.mailbox import MailboxServicer
from gatepost.control.quarantine import QuarantineServicer
from gatepost.control.queue import QueueServicer
from gatepost.control.server import ControlServer
from gatepost.control.worker import WorkerServicer
from gatepost.server.context import ServerContext
from gatepost.server.imap import ImapServer
from gatepost.server.pop3 import Pop3Server


def readers_of(context: ServerContext) -> dict[str, MailServer]:
    """The servers that let users read their mail, by listener name."""
    return {
        "pop3": Pop3Server(context),
        "pop3s": Pop3Server(context, implicit_tls=True),
        "imap": ImapServer(context),
        "imaps": ImapServer(context, implicit_tls=True),
    }


def control_of(parts: WorkerParts) -> ControlServer:
    """The supervisor's way into the worker; not started."""
    queue = QueueServicer(parts.queue, parts.actions, parts.submitter, parts.rules, parts.current, parts.index)
    services = [
        queue.service(),
        QuarantineServicer(parts.quarantine, parts.queue, queue.resolve_one, parts.current, parts.index).service(),
        HistoryServicer(parts.history, parts.index).service(),
        EventsServicer(parts.events).service(),
        MailboxServicer(parts.volumes, parts.rules).service(),
        WorkerServicer(parts, parts.quarantine, parts.queue.stats, queue.resolve).service(),
    ]
    path = parts.settings.data / "run" / f"worker-{parts.index}.sock"
    return ControlServer(services, Access(lambda _: None, relayed=True), unix_path=path)
