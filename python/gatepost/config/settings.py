"""The settings model: every section, key, unit, bound and default of Gatepost. Built by `load_settings`, read by every layer.

Invariants: a `Settings` is frozen and whole — it is validated once, and a reload makes a new one. Keys carry their unit
(`_seconds`, `_bytes`); the description of each is what docs/configuration.md prints. Fails by pydantic's ValidationError, which
`load_settings` turns into a SettingsError naming each key.
"""

import os
import socket
import threading
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from gatepost.config.scan import Scan
from gatepost.config.section import Section
from gatepost.config.types import (
    AddressList,
    AddressText,
    Count,
    CountOrNone,
    Endpoints,
    HostName,
    Networks,
    Octets,
    Port,
    ProgramPaths,
    Roles,
    Seconds,
    is_hostname,
)


def default_hostname() -> str:
    """This machine's name for greetings and trace headers, found within a second; 'localhost' when there is no usable one."""
    found = [socket.gethostname()]
    if "." not in found[0]:
        # getfqdn() asks the resolver, which may take many seconds on a machine without a network: it gets one, no more.
        asker = threading.Thread(target=lambda: found.append(socket.getfqdn()), daemon=True)
        asker.start()
        asker.join(1.0)
    for name in reversed(found):
        if is_hostname(name) and not name.startswith("localhost"):
            return name.lower()
    return "localhost"


def _cores() -> int:
    return os.cpu_count() or 1


class Listen(Section):
    """Where each protocol listens."""

    smtp: Endpoints = Field(("127.0.0.1:2525",), description="SMTP from other servers (STARTTLS offered).")
    submission: Endpoints = Field(("127.0.0.1:2587",), description="Submission by mail programs (STARTTLS, authentication required).")
    submissions: Endpoints = Field(("127.0.0.1:2465",), description="Submission with TLS from the first octet.")
    lmtp: Endpoints = Field(("127.0.0.1:2424",), description="LMTP, a reply per recipient.")
    pop3: Endpoints = Field(("127.0.0.1:2110",), description="POP3 (STLS offered).")
    pop3s: Endpoints = Field(("127.0.0.1:2995",), description="POP3 with TLS from the first octet.")
    imap: Endpoints = Field(("127.0.0.1:2143",), description="IMAP (STARTTLS offered).")
    imaps: Endpoints = Field(("127.0.0.1:2993",), description="IMAP with TLS from the first octet.")
    control_tcp: Endpoints = Field(("127.0.0.1:2551",), description="gRPC over TCP, beside the socket in the data directory.")


class Smtp(Section):
    """Receiving over SMTP, submission and LMTP."""

    max_message_bytes: Octets = Field(52_428_800, ge=1024, le=4 << 30, description="Largest message taken; announced by SIZE. In octets.")
    max_recipients: Count = Field(1000, description="Recipients of one message; more get 452. RFC 5321 4.5.3.1.8 asks for 100 at least.")
    max_bad_commands: Count = Field(10, description="Refused or unknown commands before the session is closed with 421.")
    max_hops: Count = Field(50, description="Received header fields before a message is refused as looping.")
    idle_seconds: Seconds = Field(300, description="Silence between commands before the session is closed. In seconds.")
    data_seconds: Seconds = Field(600, description="Silence within message data before the session is closed. In seconds.")
    session_seconds: Seconds = Field(3600, description="Longest life of a session. In seconds.")
    max_connections: Count = Field(1000, description="Open sessions per worker; more get 421.")
    max_connections_per_client: Count = Field(
        50, description="Open sessions per client address and worker; this machine and trusted networks are exempt."
    )
    max_messages_per_session: CountOrNone = Field(0, description="Messages in one session; 0 is no limit.")
    allow_bare_newlines: bool = Field(False, description="Take messages with a bare CR or LF. Leave it off: it opens SMTP smuggling.")
    require_tls_for_plaintext_auth: bool = Field(True, description="Offer AUTH PLAIN and LOGIN under TLS only.")
    recipient_delimiter: str = Field("+", max_length=1, description="Character between user and detail in user+detail; empty is off.")


class Trust(Section):
    """Who may relay besides authenticated users."""

    networks: Networks = Field((), description="Clients in these networks may send mail to anywhere. Not even this machine by default.")


class Queue(Section):
    """Retry and concurrency of deliveries."""

    retry_initial_seconds: Seconds = Field(60, description="Wait after the first failed attempt. In seconds.")
    retry_factor: float = Field(2.0, ge=1.0, le=100.0, description="Each further wait is this many times the one before.")
    retry_max_seconds: Seconds = Field(14_400, description="Longest wait between attempts. In seconds.")
    retry_jitter: float = Field(0.1, ge=0.0, le=1.0, description="Share of a wait that is random, 0 to 1.")
    expire_seconds: Seconds = Field(432_000, description="Age at which an undelivered message is returned. In seconds.")
    delay_notice_seconds: float = Field(
        14_400, ge=0, le=31_536_000, allow_inf_nan=False, description="Age at which its sender is told of a delay; 0 is never. In seconds."
    )
    destination_concurrency: Count = Field(20, description="Deliveries at once to one destination, per worker.")
    total_concurrency: Count = Field(500, description="Deliveries at once to all remote destinations, per worker.")
    local_batch: Count = Field(256, description="Messages handed to the mail store in one batch.")
    undo_seconds: float = Field(
        900,
        ge=0,
        le=604_800,
        allow_inf_nan=False,
        description="How long hold, release, remove and reroute can be undone and removed mail is kept; 0 is not at all. In seconds.",
    )

    @model_validator(mode="after")
    def _waits_in_order(self) -> Self:
        if self.retry_max_seconds < self.retry_initial_seconds:
            raise ValueError(f"retry_max_seconds: must not be less than retry_initial_seconds (got {self.retry_max_seconds:g})")
        return self


class Delivery(Section):
    """Sending to other servers."""

    connect_seconds: Seconds = Field(30, description="Deadline for a connection and its greeting. In seconds.")
    command_seconds: Seconds = Field(300, description="Deadline for the reply to a command. In seconds.")
    data_seconds: Seconds = Field(600, description="Deadline for the reply to the end of data. In seconds.")
    connection_idle_seconds: Seconds = Field(5, description="How long a connection is kept for the next message. In seconds.")
    max_deliveries_per_connection: Count = Field(100, description="Messages over one connection before it is closed.")
    helo: HostName = Field("", description="Name given in EHLO; empty is `hostname`.")
    source_address: AddressText = Field("", description="Local IP address to connect from; empty lets the kernel choose.")
    mx_port: Port = Field(25, description="Port of mail exchangers found by MX.")
    verify_ca_file: str = Field("", description="PEM file of authorities that vouch for verified next hops; empty is the system's.")
    prefer_ipv4: bool = Field(False, description="Try the A addresses of a host before its AAAA addresses.")


class Pipe(Section):
    """Programs that mail may be handed to."""

    programs: ProgramPaths = Field(
        (), description="Absolute paths of programs that handlers may run; a rule that names another runs nothing."
    )


class Dns(Section):
    """The resolver used for MX, A and AAAA, and for the TXT and PTR records of senders."""

    nameservers: AddressList = Field((), description="IP addresses of resolvers to ask; empty is the system's.")
    port: Port = Field(53, description="Port of those resolvers.")
    timeout_seconds: Seconds = Field(5, description="Wait for one answer. In seconds.")
    lifetime_seconds: Seconds = Field(15, description="Wait for all tries of one question. In seconds.")
    cache_size: Count = Field(10_000, description="Answers kept in memory, per worker.")


class Spool(Section):
    """The queue's files."""

    segment_bytes: Octets = Field(67_108_864, ge=1 << 20, le=1 << 32, description="Size of one log segment. In octets.")
    min_free_bytes: Octets = Field(104_857_600, ge=0, description="Stop receiving (452) when less disk space than this is free. In octets.")
    resume_free_bytes: Octets = Field(
        0, ge=0, description="Receive again when so much is free; 0 = min_free_bytes and a tenth of it more, at least 64 MiB. In octets."
    )
    reopen_seconds: float = Field(
        30, ge=0, le=86_400, description="After a failed sync: when the disk is first tried anew; 0 = only by a restart. In seconds."
    )


class Authentication(Section):
    """Whether mail comes from where it says: SPF, DKIM and DMARC of mail over SMTP from senders that are not trusted."""

    verify: Literal["off", "when needed", "always"] = Field(
        "when needed", description="`when needed`: if a condition of the rules names `auth`, for mail that one of these may concern."
    )
    timeout_seconds: Seconds = Field(
        10, description="Wait for the DNS, at MAIL and again at the end of data; what is not known then is a temperror. In seconds."
    )


class History(Section):
    """What is kept of finished mail, for `gatepost trace`."""

    days: float = Field(14, ge=0, le=3660, allow_inf_nan=False, description="Age up to which it is kept; 0 is off. In days.")
    max_bytes: Octets = Field(
        1 << 30, ge=16 << 20, description="Disk space of it at most, over all workers; the oldest goes first. In octets."
    )


class Quarantine(Section):
    """Mail that scanning withheld from its recipients."""

    keep_days: float = Field(
        30, ge=0, le=3660, allow_inf_nan=False, description="Age at which quarantined mail is removed; 0 keeps it for ever. In days."
    )
    after_wait: Literal["quarantine", "release"] = Field(
        "quarantine", description="What becomes of mail that has waited for a scanner for as long as its policy allows (`outage_minutes`)."
    )
    digest: Literal["off", "daily", "weekly"] = Field(
        "off", description="Mail to each mailbox about what is in quarantine for it; weekly is on Mondays."
    )
    digest_hour: int = Field(6, ge=0, le=23, description="Hour of the day at which digests are sent, in local time.")
    link_base: str = Field("", description="Begins the links of a digest; the signed token follows. Empty is https://HOSTNAME/quarantine/.")
    link_days: float = Field(14, gt=0, le=366, allow_inf_nan=False, description="How long the links of a digest work. In days.")


class Lists(Section):
    """Mailing lists."""

    link_base: str = Field(
        "", description="Public address of the page behind signed links (https://…/); the token follows. Empty: posts carry no such links."
    )

    @model_validator(mode="after")
    def _is_https(self) -> Self:
        if self.link_base and not (self.link_base.startswith("https://") and self.link_base.endswith(("/", "="))):
            raise ValueError(f"link_base: begins with https:// (RFC 8058 3.1) and ends with / or = (got {self.link_base!r})")
        return self


class Mail(Section):
    """Reading mail over POP3 and IMAP."""

    pop3_idle_seconds: Seconds = Field(600, description="Silence before a POP3 session is closed; RFC 1939 asks for 600. In seconds.")
    imap_idle_seconds: Seconds = Field(1860, description="Silence before an IMAP session is closed; RFC 3501 asks for 1800. In seconds.")
    login_seconds: Seconds = Field(60, description="Time a client has to log in. In seconds.")
    max_failed_logins: Count = Field(5, description="Failed logins before a POP3 or IMAP session is closed.")
    max_connections: Count = Field(2000, description="Open POP3 and IMAP sessions per worker.")
    max_connections_per_client: Count = Field(100, description="Open sessions per client address and worker; this machine is exempt.")
    max_literal_bytes: Octets = Field(67_108_864, ge=1024, le=4 << 30, description="Largest message that APPEND takes. In octets.")
    max_command_bytes: Octets = Field(65_536, ge=1024, le=16 << 20, description="Largest IMAP command, APPEND literal apart. In octets.")
    require_tls_for_plaintext_auth: bool = Field(True, description="Take USER/PASS, LOGIN and SASL PLAIN under TLS only.")


class Auth(Section):
    """Checking passwords."""

    max_failures: Count = Field(5, description="Failures of one login from one client before further tries are put off, per worker.")
    failure_window_seconds: Seconds = Field(600, description="How long failures are remembered. In seconds.")
    cache_seconds: float = Field(300, ge=0, le=86_400, allow_inf_nan=False, description="Life of a success; 0 is off. In seconds.")
    hash_threads: int = Field(2, ge=1, le=64, description="Threads that check password hashes, per worker; 19 MiB each.")
    hash_queue: Count = Field(64, description="Checks that may wait for a thread; more get a temporary failure.")


class Tls(Section):
    """The server's certificate."""

    cert_file: str = Field("", description="PEM certificate chain; empty makes a self-signed one in the data directory.")
    key_file: str = Field("", description="PEM private key of that certificate.")
    min_version: Literal["1.2", "1.3"] = Field("1.2", description="Oldest TLS version taken from clients.")
    client_ca_file: str = Field("", description="PEM authorities of client certificates, which are asked for then; see the trust list.")

    @model_validator(mode="after")
    def _pair(self) -> Self:
        if bool(self.cert_file) != bool(self.key_file):
            missing = "key_file" if self.cert_file else "cert_file"
            raise ValueError(f"{missing}: must be set too when the other of cert_file and key_file is (got '')")
        return self


class Control(Section):
    """gRPC over TCP."""

    tcp_tls: bool = Field(True, description="TLS on the TCP endpoint. Off lets tokens travel in the clear: for loopback only.")
    client_ca_file: str = Field("", description="PEM file of authorities whose client certificates are taken; empty is none.")
    client_roles: Roles = Field({}, description="Certificate common name → admin, operator or viewer.")

    @model_validator(mode="after")
    def _known_roles(self) -> Self:
        for name, role in self.client_roles.items():
            if role not in ("admin", "operator", "viewer"):
                raise ValueError(f"client_roles.{name}: must be admin, operator or viewer (got {role!r})")
        return self


class Log(Section):
    """The server's own log."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe entry that is written.")
    format: Literal["auto", "json", "console"] = Field("auto", description="auto is console on a terminal, else json.")


class Settings(Section):
    """All settings of one process; made by `load_settings` only.

    A plain pydantic model, not a pydantic-settings one: load_settings must merge the environment itself to refuse unknown names,
    and the import of pydantic-settings would cost every process 0.1 s of its start.
    """

    hostname: HostName = Field(default_factory=default_hostname, description="This server's name in greetings and trace headers.")
    data: Path = Field(Path("var"), description="Directory of everything the server writes. Made when missing.")
    workers: int = Field(default_factory=_cores, ge=1, le=256, description="Worker processes; by default one per core.")
    listen: Listen = Listen()
    smtp: Smtp = Smtp()
    trust: Trust = Trust()
    queue: Queue = Queue()
    delivery: Delivery = Delivery()
    pipe: Pipe = Pipe()
    dns: Dns = Dns()
    spool: Spool = Spool()
    history: History = History()
    scan: Scan = Scan()
    authentication: Authentication = Authentication()
    quarantine: Quarantine = Quarantine()
    lists: Lists = Lists()
    mail: Mail = Mail()
    auth: Auth = Auth()
    tls: Tls = Tls()
    control: Control = Control()
    log: Log = Log()
