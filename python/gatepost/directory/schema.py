"""The tables of directory.db. Changed only together with a script in migrations/versions and REVISION (standing.py); a test holds them to
each other.

Invariants: times are Unix microseconds; domains and addresses are stored in the form they are compared in (lower-case, A-labels);
no column holds a password or a token's secret in the clear.
"""

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "pk": "pk_%(table_name)s",
    }
)

state = Table(
    "state",
    metadata,
    Column("key", String, primary_key=True),
    Column("value", String, nullable=False),
)
"""'revision': counts every change anyone made, rules and passwords alike. 'pepper': hex, keys
the salts of users that do not exist and the etags of those that do."""

volumes = Table(
    "volumes",
    metadata,
    Column("name", String, primary_key=True),
    Column("path", String, nullable=False, unique=True),
    Column("created_at", Integer, nullable=False),
)
"""A path that is not absolute is relative to the directory that holds directory.db."""

domain_rules = Table(
    "domain_rules",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("domain", String, nullable=False, unique=True),
    Column("kind", String, nullable=False),
    Column("host", String, nullable=False),
    Column("port", Integer, nullable=False),
    Column("tls", String, nullable=False),
    Column("implicit_tls", Boolean, nullable=False),
    Column("lmtp", Boolean, nullable=False),
    Column("username", String, nullable=False),
    Column("password_ref", String, nullable=False),
    Column("text", String, nullable=False),
    Column("accept_untrusted", Boolean, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("policy", String, nullable=False, server_default=""),
    Column("settings", Text, nullable=False, server_default=""),
)
"""`settings`: routing.settings.RuleSettings as JSON, '' for none. `revision`: the directory's revision when the rule or a handler of it
last changed; its etag is made from that.
"""

handlers = Table(
    "handlers",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("rule_id", ForeignKey("domain_rules.id", ondelete="CASCADE"), nullable=False),
    Column("pattern", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("targets", Text, nullable=False),
    Column("text", String, nullable=False),
    Column("policy", String, nullable=False, server_default=""),
    Column("options", Text, nullable=False, server_default=""),
    UniqueConstraint("rule_id", "pattern"),
)
"""`targets`: the addresses, one a line. `options`: routing.settings.HandlerOptions as JSON, '' for none."""

policies = Table(
    "policies",
    metadata,
    Column("name", String, primary_key=True),
    Column("text", Text, nullable=False),
    Column("revision", Integer, nullable=False),
)
"""Attachment policies as TOML, as it was given. `revision`: as for rules."""

rule_parts = Table(
    "rule_parts",
    metadata,
    Column("name", String, primary_key=True),
    Column("content", Text, nullable=False),
    Column("revision", Integer, nullable=False),
)
"""The small ordered lists of the rule set (routing.parts), each with its entries as JSON. `revision`: as for rules."""

users = Table(
    "users",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("address", String, nullable=False, unique=True),
    Column("domain", String, nullable=False, index=True),
    Column("mailbox_id", LargeBinary, nullable=False, unique=True),
    Column("volume", ForeignKey("volumes.name"), nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("password_hash", String, nullable=False),
    Column("scram_salt", LargeBinary, nullable=False),
    Column("scram_iterations", Integer, nullable=False),
    Column("scram_stored_key", LargeBinary, nullable=False),
    Column("scram_server_key", LargeBinary, nullable=False),
    Column("created_at", Integer, nullable=False),
    CheckConstraint("length(mailbox_id) = 16", name="mailbox_id"),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String, nullable=False, unique=True),
    Column("role", String, nullable=False),
    Column("secret_sha256", LargeBinary, nullable=False, unique=True),
    Column("author", String, nullable=False),
    Column("created_at", Integer, nullable=False),
    Column("expires_at", Integer, nullable=False),
    Column("last_used_at", Integer, nullable=False),
    Column("domains", String, nullable=False, server_default=""),
)

allowed_senders = Table(
    "allowed_senders",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("sender", String, nullable=False),
    Column("recipient", String, nullable=False),
    Column("author", String, nullable=False),
    Column("created_at", Integer, nullable=False),
    UniqueConstraint("sender", "recipient"),
)
"""Whose mail passes policy; `recipient` '' is every recipient."""

rule_versions = Table(
    "rule_versions",
    metadata,
    Column("version", Integer, primary_key=True),
    Column("author", String, nullable=False),
    Column("created_at", Integer, nullable=False),
    Column("comment", String, nullable=False),
    sqlite_autoincrement=True,
)

rule_changes = Table(
    "rule_changes",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("version", ForeignKey("rule_versions.version", ondelete="CASCADE"), nullable=False),
    Column("subject", String, nullable=False),
    Column("key", String, nullable=False),
    Column("before", Text),
    Column("after", Text),
    Index("ix_rule_changes_version", "version"),
)
"""What a version changed, as JSON before and after (NULL: was not, is no more). Walking it backwards from the tables gives any kept
version in time proportional to the changes; a full copy per version would cost each of 100,000 rules at each change of one."""
