"""Directory: the one door to directory.db. The supervisor changes it (control/, demo), workers read it (rule set, credentials).

Every method is synchronous and may wait for the disk or for a lock (at most 5 s): call it in a thread from async code. Safe from any
thread. A method that changes something is one transaction: on return it is durable, on an error nothing was changed.
Fails with the errors of errors.py.
"""

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from gatepost.directory import allowed, documents, parts, policies, rules, tokens, users, validation, versions, volumes
from gatepost.directory.database import Database, pepper, revision
from gatepost.directory.drafts import Drafts
from gatepost.directory.errors import DirectoryError, NotFound
from gatepost.directory.live import Live
from gatepost.directory.secret_files import SecretFiles
from gatepost.directory.standing import SRS_KEY
from gatepost.directory.values import AllowedSender, Credentials, RuleVersion, StoredHandler, StoredPolicy, StoredRule, Token, User, Volume
from gatepost.routing.changes import Change
from gatepost.routing.document import Document
from gatepost.routing.members import NO_LISTS, ListBook
from gatepost.routing.model import AddressHandler, DomainRule, RuleKind, RuleSet


class Directory:
    """Open `path`. migrate=True: make the file or bring it up to date, and allow changes (supervisor). False: read only (workers)."""

    def __init__(self, path: Path, *, migrate: bool = False) -> None:
        self._base = path.parent
        self._database = Database(path, migrate=migrate)
        self._live = Live(path)
        self._secrets = SecretFiles(self._base / "secrets")
        self.drafts = Drafts(self._base / "drafts")
        if migrate:
            self._make_default_volume()
            self._secrets.seal_all()
            self._make_srs_key()

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _make_default_volume(self) -> None:
        place = self._base / "volumes" / "main"
        try:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise DirectoryError(f"{place}: {error.strerror}") from error

    # ---- the whole -------------------------------------------------------------------------------------------------

    def snapshot(self, lists: ListBook = NO_LISTS) -> RuleSet:
        """The rule set now. What is large of it is a mapped file and what changed since (live.py): a change costs what it changed.
        `lists`: what members of lists asked for.
        """
        with self._database.read() as connection:
            version = versions.current(connection)
            seen = revision(connection)
            etag = f"v{version}-{seen:x}"
            in_force, mailboxes = self._live.current(connection)
            return RuleSet(
                version,
                in_force,
                mailboxes,
                etag,
                allowed.by_sender(connection),
                policies.texts(connection),
                srs_key=self._srs_key(),
                **parts.read_all(connection),
                lists=lists,
            )

    def index_is_due(self) -> bool:
        """Whether a new index file should be built for this rule set (`build_index`)."""
        return self._live.is_due

    def has_newer_index(self) -> bool:
        """Whether somebody has built an index file that the next snapshot would be the smaller with."""
        return self._live.has_newer_file

    def build_index(self) -> None:
        """Build the index file anew, in a process of low priority; seconds for a million handlers. Raises DirectoryError."""
        self._live.build()

    def _world(self, connection: Connection) -> RuleSet:
        """For checks inside a change: rules and mailboxes as they will be."""
        return RuleSet(0, *self._live.within(connection))

    def _make_srs_key(self) -> None:
        """The key of rewritten return paths: made once, before any worker starts."""
        if not self._secrets.has(SRS_KEY):
            self._secrets.put(SRS_KEY, secrets.token_hex(32))

    def _srs_key(self) -> bytes:
        """Without a key senders are not rewritten, and nothing comes back."""
        try:
            return bytes.fromhex(self._secrets.get(SRS_KEY))
        except (NotFound, DirectoryError, ValueError):
            return b""

    def data_version(self) -> int:
        """Changes whenever anyone changed anything, passwords included. One indexed row."""
        with self._database.read() as connection:
            return revision(connection)

    def rule_versions(self) -> list[RuleVersion]:
        """The last changes of the rule set, newest first."""
        with self._database.read() as connection:
            return versions.listed(connection)

    # ---- the rule set as a document ----------------------------------------------------------------------------------

    def document(self, version: int | None = None) -> tuple[int, Document]:
        """The rules now or as of a version that is kept, and that version's number. Raises NotFound."""
        with self._database.read() as connection:
            if version is None:
                return versions.current(connection), documents.read(connection)
            return version, documents.read_version(connection, version)

    def apply_document(self, document: Document, *, base: int | None = None, author: str, comment: str = "") -> tuple[int, list[Change]]:
        """Make a normalised document (documents.normalised) the rules in force, as one version: its number, and what was changed.

        Raises EtagMismatch (`base` is not the version in force), ConflictInUse (a rule with users would go), InvalidValue.
        """
        with self._database.write() as connection:
            return documents.apply(connection, document, base=base, author=author, comment=comment, world=self._world)

    def has_secret(self, ref: str) -> bool:
        """Whether a secret of this name is stored."""
        return self._secrets.has(ref)

    # ---- rules and handlers ----------------------------------------------------------------------------------------

    def get_rule(self, domain: str) -> StoredRule:
        """Raises NotFound, InvalidValue."""
        with self._database.read() as connection:
            return rules.get_rule(connection, domain)

    def list_rules(self, after: str = "", limit: int | None = None, kind: RuleKind | None = None) -> list[StoredRule]:
        """Rules by domain: those behind `after`, at most `limit`, of one kind or all."""
        with self._database.read() as connection:
            return rules.list_rules(connection, after, limit, kind)

    def put_rule(self, rule: DomainRule, *, etag: str | None = None, create: bool, author: str) -> StoredRule:
        """Add or replace a rule with all its handlers. Raises AlreadyExists, NotFound, EtagMismatch, InvalidValue.

        Replacing drops what the kind has no use for (an mx rule's host), so that a change of kind alone is enough.
        """
        rule = validation.domain_rule(rule if create else validation.fitted_to_kind(rule))
        with self._database.write() as connection:
            return rules.put_rule(connection, rule, etag=etag, create=create, author=author, world=self._world)

    def delete_rule(self, domain: str, *, etag: str | None = None, author: str, force: bool = False) -> None:
        """Raises NotFound, EtagMismatch, ConflictInUse (the domain has users; `force` removes them, not their mail)."""
        with self._database.write() as connection:
            rules.delete_rule(connection, domain, etag=etag, force=force, author=author)

    def get_handler(self, domain: str, pattern: str) -> StoredHandler:
        """Raises NotFound."""
        with self._database.read() as connection:
            return rules.get_handler(connection, domain, pattern)

    def list_handlers(self, domain: str, after: str = "", limit: int = -1) -> tuple[list[AddressHandler], str]:
        """Handlers of one rule by pattern, those behind `after`, at most `limit`; and the rule's etag. Raises NotFound."""
        with self._database.read() as connection:
            return rules.list_handlers(connection, domain, after, limit)

    def put_handler(self, domain: str, handler: AddressHandler, *, etag: str | None = None, create: bool, author: str) -> StoredHandler:
        """Add or replace a handler. Raises AlreadyExists, NotFound, EtagMismatch, InvalidValue. `etag` is the rule's."""
        with self._database.write() as connection:
            return rules.put_handler(connection, domain, handler, etag=etag, create=create, author=author, world=self._world)

    def delete_handler(self, domain: str, pattern: str, *, etag: str | None = None, author: str) -> str:
        """Remove a handler; the rule's new etag. Raises NotFound, EtagMismatch."""
        with self._database.write() as connection:
            return rules.delete_handler(connection, domain, pattern, etag=etag, author=author)

    def add_mailbox_handlers(self, domain: str, source: str, *, etag: str | None = None, author: str) -> tuple[str, list[str], int]:
        """A mailbox handler of `domain` for each mailbox of `source`: (the rule's new etag, names added, how many had a handler).
        Raises NotFound, EtagMismatch, InvalidValue.
        """
        with self._database.write() as connection:
            return rules.add_mailbox_handlers(connection, domain, source, etag=etag, author=author)

    # ---- attachment policies ---------------------------------------------------------------------------------------

    def get_policy(self, name: str) -> StoredPolicy:
        """Raises NotFound."""
        with self._database.read() as connection:
            return policies.get_policy(connection, name)

    def list_policies(self) -> list[StoredPolicy]:
        """Policies by name."""
        with self._database.read() as connection:
            return policies.listed(connection)

    def put_policy(self, name: str, text: str, *, etag: str | None = None, author: str) -> StoredPolicy:
        """Add or replace a policy whose text has been checked. Raises EtagMismatch, InvalidValue."""
        with self._database.write() as connection:
            return policies.put_policy(connection, name, text, etag=etag, author=author)

    def delete_policy(self, name: str, *, etag: str | None = None, author: str) -> None:
        """Raises NotFound, EtagMismatch, ConflictInUse (a rule or handler names it)."""
        with self._database.write() as connection:
            policies.delete_policy(connection, name, etag=etag, author=author)

    # ---- small ordered lists (routing.parts) ------------------------------------------------------------------------

    def get_part(self, name: str) -> parts.StoredPart:
        """One list; empty when nothing was ever put into it."""
        with self._database.read() as connection:
            return parts.get(connection, name)

    def put_entry(self, part: str, entry: Any, *, position: int = 0, etag: str | None = None, author: str) -> str:
        """Add or replace an entry of a list; the list's new etag. Raises EtagMismatch, InvalidValue."""
        with self._database.write() as connection:
            return parts.put_entry(connection, part, entry, position=position, etag=etag, author=author)

    def delete_entry(self, part: str, name: str, *, etag: str | None = None, author: str) -> str:
        """Remove an entry; the list's new etag. Raises NotFound, EtagMismatch."""
        with self._database.write() as connection:
            return parts.delete_entry(connection, part, name, etag=etag, author=author)

    def mailing_lists(self) -> list[tuple[str, AddressHandler]]:
        """*blocking* Every handler that is a mailing list, with the domain of its rule; by domain and pattern."""
        with self._database.read() as connection:
            return rules.lists(connection)

    # ---- users -----------------------------------------------------------------------------------------------------

    def add_user(self, address: str, password: str | None, volume: str = "main", *, author: str) -> User:
        """Password None: no login. Raises AlreadyExists, InvalidValue (address, password), NotFound (volume)."""
        secret = users.hashed(password)
        with self._database.write() as connection:
            return users.add_user(connection, address, secret, volume, author)

    def get_user(self, address: str) -> User:
        """Raises NotFound."""
        with self._database.read() as connection:
            return users.get_user(connection, address)

    def list_users(self, domain: str | None = None) -> list[User]:
        """Users by address; of one domain, or all."""
        with self._database.read() as connection:
            return users.list_users(connection, domain)

    def set_password(self, address: str, password: str | None, *, etag: str | None = None, author: str) -> User:
        """Old password and remembered logins end within a second. Raises NotFound, EtagMismatch, InvalidValue."""
        secret = users.hashed(password)
        with self._database.write() as connection:
            return users.set_password(connection, address, secret, author, etag)

    def set_enabled(self, address: str, enabled: bool, *, etag: str | None = None, author: str) -> User:
        """A disabled user cannot log in and gets no mail. Raises NotFound, EtagMismatch."""
        with self._database.write() as connection:
            return users.set_enabled(connection, address, enabled, author, etag)

    def remove_user(self, address: str, *, etag: str | None = None, author: str, force: bool = False) -> User:
        """The user as it was; its mailbox stays. Raises NotFound, EtagMismatch, ConflictInUse (a mailbox handler names it)."""
        with self._database.write() as connection:
            return users.remove_user(connection, address, author, etag=etag, force=force)

    def credentials(self, address: str) -> Credentials | None:
        """For Authenticator: what a login is checked against. `address` in stored form (validation.user_address)."""
        with self._database.read() as connection:
            return users.credentials(connection, address)

    def pepper(self) -> bytes:
        """A secret of this installation, the same in every process: makes steady salts for users that do not exist (see also etags.py)."""
        with self._database.read() as connection:
            return pepper(connection)

    # ---- senders whose mail passes policy ---------------------------------------------------------------------------

    def allow_sender(self, sender: str, recipient: str = "", *, author: str) -> AllowedSender:
        """Let a sender's mail pass policy, for one recipient or all; no change when it does already. Raises InvalidValue."""
        with self._database.write() as connection:
            return allowed.allow(connection, sender, recipient, author)

    def disallow_sender(self, sender: str, recipient: str = "") -> None:
        """Take one entry back. Raises NotFound, InvalidValue. Who did it stands in the audit log: the row is gone."""
        with self._database.write() as connection:
            allowed.take_back(connection, sender, recipient)

    def list_allowed_senders(self) -> list[AllowedSender]:
        """Every entry, by sender and recipient."""
        with self._database.read() as connection:
            return allowed.listed(connection)

    # ---- volumes, tokens, secrets ----------------------------------------------------------------------------------

    def add_volume(self, name: str, path: str | Path, *, author: str) -> Volume:
        """Raises AlreadyExists, InvalidValue (name, path)."""
        with self._database.write() as connection:
            return volumes.add_volume(connection, self._base, name, str(path), author)

    def get_volume(self, name: str) -> Volume:
        """Raises NotFound."""
        with self._database.read() as connection:
            return volumes.get_volume(connection, self._base, name)

    def list_volumes(self) -> list[Volume]:
        """Volumes by name; 'main' is always there."""
        with self._database.read() as connection:
            return volumes.list_volumes(connection, self._base)

    def remove_volume(self, name: str, *, etag: str | None = None, author: str) -> None:
        """Forget a volume; its files stay. Raises NotFound, EtagMismatch, ConflictInUse (mailboxes lie on it, or it is 'main')."""
        with self._database.write() as connection:
            volumes.remove_volume(connection, name, author, etag)

    def create_token(self, name: str, role: str, *, author: str, expires_at: int = 0, domains: Sequence[str] = ()) -> tuple[Token, str]:
        """A token and its secret, which is shown this one time. Raises AlreadyExists, InvalidValue."""
        with self._database.write() as connection:
            return tokens.create_token(connection, name, role, author, expires_at, domains)

    def list_tokens(self) -> list[Token]:
        """Tokens by name."""
        with self._database.read() as connection:
            return tokens.list_tokens(connection)

    def revoke_token(self, name: str, *, author: str) -> None:
        """End a token at once. Raises NotFound. Who did it stands in the audit log, not here: the row is gone."""
        with self._database.write() as connection:
            tokens.revoke_token(connection, name)

    def verify_token(self, secret: str) -> Token | None:
        """The token this secret belongs to; None when there is none or it has expired. Notes the use, once an hour."""
        with self._database.read() as connection:
            token = tokens.find_token(connection, secret)
        if token is not None and self._database.writable and tokens.use_is_worth_noting(token):
            try:
                with self._database.write() as connection:
                    tokens.note_use(connection, token.name)
            except DirectoryError:
                pass  # a call must not fail because its time could not be noted
        return token

    def put_secret(self, ref: str, value: str) -> None:
        """Store or replace a gateway password. Raises InvalidValue."""
        self._secrets.put(ref, value)

    def secret(self, ref: str) -> str:
        """Raises NotFound."""
        return self._secrets.get(ref)

    def remove_secret(self, ref: str) -> None:
        """Forget it; nothing happens when it is not there."""
        self._secrets.remove(ref)
