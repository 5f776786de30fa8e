"""Who may call what: the table of all RPCs, and how a caller is recognised. Used by the guard.

Over the Unix socket everybody is admin: whoever can open the socket (mode 0600) owns the data. Over TCP a caller shows a bearer
token, or a client certificate whose common name has a role. An RPC that is not in the table is refused to everybody; a test holds
the table against the descriptors.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol

from gatepost.control.errors import unauthenticated

MAX_NAME = 64


class Role(IntEnum):
    """Ordered: each includes the ones before; NOBODY needs no login.

    DOMAIN_ADMIN includes nothing, and nothing includes it: it may call what a Rule opens to it (`by_domain`), for its own domains.
    """

    DOMAIN_ADMIN = -1
    NOBODY = 0
    VIEWER = 1
    OPERATOR = 2
    ADMIN = 3


@dataclass(frozen=True, slots=True)
class Rule:
    """Least role, and whether the call changes something (and so is audited).

    by_domain: open to domain admins as well; the servicer keeps them to their domains (`Caller.domains`).
    """

    role: Role
    changes: bool = False
    by_domain: bool = False

    def admits(self, caller: "Caller") -> bool:
        """Whether this caller may."""
        return self.by_domain if caller.role is Role.DOMAIN_ADMIN else caller.role >= self.role


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls. actor: 'local:NAME', 'token:NAME', 'cert:CN' or 'nobody'."""

    actor: str
    role: Role
    peer: str
    domains: frozenset[str] = frozenset()
    """Of a domain admin, lower case."""


CALLER: ContextVar[Caller | None] = ContextVar("gatepost_caller", default=None)
"""Set by the guard for the task of a call."""


def author() -> str:
    """The actor of the running call, for whoever records who made a change."""
    caller = CALLER.get()
    return caller.actor if caller is not None else "internal"


def _rules(service: str, role: Role, names: str, *, changes: bool, by_domain: bool = False) -> dict[str, Rule]:
    return {f"/gatepost.api.{service}/{name}": Rule(role, changes, by_domain) for name in names.split()}


RPCS: Mapping[str, Rule] = {
    **_rules(
        "queue.v1.QueueService",
        Role.VIEWER,
        "ListMessages GetMessage WatchQueue GetStats ListDestinations ListOperations ListCauses",
        changes=False,
    ),
    **_rules("queue.v1.QueueService", Role.OPERATOR, "DownloadMessage PreviewSelection", changes=False),
    **_rules(
        "queue.v1.QueueService",
        Role.OPERATOR,
        "HoldMessages ReleaseMessages RetryMessages RerouteMessage RerouteMessages RemoveMessages UndoOperation "
        "PauseDestination ResumeDestination SubmitMessage",
        changes=True,
    ),
    **_rules("quarantine.v1.QuarantineService", Role.VIEWER, "ListQuarantined GetQuarantined", changes=False, by_domain=True),
    **_rules("quarantine.v1.QuarantineService", Role.VIEWER, "ListAllowedSenders", changes=False),
    **_rules("quarantine.v1.QuarantineService", Role.OPERATOR, "PreviewDigest", changes=False),
    **_rules(
        "quarantine.v1.QuarantineService",
        Role.OPERATOR,
        "ReleaseQuarantined ReleaseAndAllow DeleteQuarantined",
        changes=True,
        by_domain=True,
    ),
    **_rules(
        "quarantine.v1.QuarantineService",
        Role.OPERATOR,
        "RescanQuarantined AllowSender DisallowSender ResolveDigestLink",
        changes=True,
    ),
    # Changes nothing, but who looked at harmful or private mail is worth a line.
    **_rules("quarantine.v1.QuarantineService", Role.ADMIN, "ReadContent", changes=True),
    **_rules("history.v1.HistoryService", Role.VIEWER, "ListTraces GetTrace ListQueueAt DiffQueue", changes=False),
    **_rules(
        "rules.v1.RulesService",
        Role.VIEWER,
        "GetDomainRule ListDomainRules GetHandler ListHandlers ListRuleVersions Explain",
        changes=False,
    ),
    **_rules(
        "rules.v1.RulesService",
        Role.ADMIN,
        "CreateDomainRule UpdateDomainRule DeleteDomainRule CreateHandler UpdateHandler DeleteHandler AddMailboxHandlers",
        changes=True,
    ),
    **_rules(
        "rulesets.v1.RulesetsService",
        Role.VIEWER,
        "GetDocument GetSchema CheckDocument PreviewDocument DiffVersions ListDrafts GetDraft ExplainMail PreviewReplan Rehearse",
        changes=False,
    ),
    **_rules("rulesets.v1.RulesetsService", Role.ADMIN, "ApplyDocument PutDraft DeleteDraft PutSecret", changes=True),
    **_rules("policies.v1.PoliciesService", Role.VIEWER, "ListPolicies GetPolicy CheckPolicy", changes=False),
    **_rules("policies.v1.PoliciesService", Role.OPERATOR, "TryPolicy", changes=False),
    **_rules("policies.v1.PoliciesService", Role.ADMIN, "ApplyPolicy DeletePolicy", changes=True),
    **_rules("flow.v1.FlowService", Role.VIEWER, "ListEntries CheckEntry", changes=False),
    **_rules("flow.v1.FlowService", Role.ADMIN, "PutEntry DeleteEntry", changes=True),
    **_rules("events.v1.EventsService", Role.VIEWER, "ListEvents WatchEvents", changes=False),
    **_rules("lists.v1.ListsService", Role.VIEWER, "ListMailingLists ListMembers ListHeldPosts", changes=False),
    # A signed link changes nothing, but it is a permission: who made one is worth a line.
    **_rules(
        "lists.v1.ListsService",
        Role.OPERATOR,
        "SetMember ForgetMember ApprovePost RejectPost ResolveListLink MakeMemberLink",
        changes=True,
    ),
    **_rules("directory.v1.DirectoryService", Role.VIEWER, "GetUser ListUsers GetVolume ListVolumes", changes=False),
    **_rules("directory.v1.DirectoryService", Role.ADMIN, "ListTokens", changes=False),
    **_rules(
        "directory.v1.DirectoryService",
        Role.ADMIN,
        "CreateUser UpdateUser SetPassword DeleteUser CreateVolume DeleteVolume CreateToken RevokeToken",
        changes=True,
    ),
    **_rules("mailbox.v1.MailboxService", Role.VIEWER, "ListMailboxes GetMailbox ListFolders", changes=False),
    **_rules("mailbox.v1.MailboxService", Role.ADMIN, "PurgeMailbox", changes=True),
    **_rules("server.v1.ServerService", Role.VIEWER, "GetStatus", changes=False),
    **_rules("server.v1.ServerService", Role.ADMIN, "GetAuditLog", changes=False),
    **_rules("server.v1.ServerService", Role.ADMIN, "Reload Drain", changes=True),
    # Only the supervisor can open a worker's socket, and it has audited the call already.
    **_rules(
        "worker.v1.WorkerService",
        Role.ADMIN,
        "GetWorkerStatus ResolveMessages CountQuarantined DescribeQuarantined Reload Drain",
        changes=False,
    ),
    # A load balancer asks for health without a login; it learns no more than that there is a server.
    "/grpc.health.v1.Health/Check": Rule(Role.NOBODY),
    "/grpc.health.v1.Health/List": Rule(Role.NOBODY),
    "/grpc.health.v1.Health/Watch": Rule(Role.NOBODY),
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Rule(Role.VIEWER),
}


class VerifiedToken(Protocol):
    """What the directory tells about a token. role: 'admin', 'operator', 'viewer' or 'domain_admin'."""

    @property
    def name(self) -> str:
        """As given when it was made."""
        ...

    @property
    def role(self) -> str:
        """Name of the role."""
        ...

    @property
    def domains(self) -> Sequence[str]:
        """Those of a domain admin."""
        ...


USER_KEY = "gatepost-user"
"""Metadata by which a caller over the Unix socket says who it is (the login name). Taken on trust: the socket is the credential."""
ACTOR_KEY = "gatepost-actor"
"""Metadata by which the supervisor tells a worker on whose behalf it calls."""


def actor_metadata(by: str = "") -> tuple[tuple[str, str], ...]:
    """For calls to a worker that change something; `by`: on whose behalf, if not the caller's."""
    return ((ACTOR_KEY, by or author()),)


OPERATION_KEY = "gatepost-operation"
"""Metadata by which the supervisor gives an operation the same id on all workers."""


def operation_metadata(operation_id: str) -> tuple[tuple[str, str], ...]:
    """For calls to a worker that are part of an operation."""
    return ((OPERATION_KEY, operation_id),)


def operation_of(context: Any) -> str:
    """The operation that a call to a worker is part of; '' when the worker is to make an id."""
    ask: Callable[[], Any] | None = getattr(context, "invocation_metadata", None)
    metadata = ask() if ask is not None else None
    return next((value for key, value in metadata or () if key == OPERATION_KEY and isinstance(value, str)), "")


class Access:
    """Recognises callers. `verify_token` may block (it runs in a thread); `certificate_roles` maps a common name to a role name.

    A worker takes the actor from its supervisor (`relayed`).
    """

    def __init__(
        self,
        verify_token: Callable[[str], VerifiedToken | None],
        certificate_roles: Callable[[], Mapping[str, str]] = dict,
        *,
        relayed: bool = False,
    ) -> None:
        self._relayed = relayed
        self._verify_token = verify_token
        self._certificate_roles = certificate_roles

    async def identify(self, context: Any) -> Caller:  # grpc.aio.ServicerContext is generic in two types that do not matter here
        """The caller of a call. Raises ControlError (UNAUTHENTICATED) for bad credentials; no credentials at all give a NOBODY."""
        peer = context.peer() or ""
        metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        if peer.startswith("unix:"):
            if self._relayed and metadata.get(ACTOR_KEY):
                return Caller(_printable(metadata[ACTOR_KEY]), Role.ADMIN, "supervisor")
            return Caller(f"local:{_printable(metadata.get(USER_KEY, ''))}", Role.ADMIN, "unix")
        by_certificate = self._by_certificate(context.auth_context(), peer)
        if by_certificate is not None:
            return by_certificate
        scheme, _, secret = metadata.get("authorization", "").partition(" ")
        if not scheme:
            return Caller("nobody", Role.NOBODY, peer)
        if scheme.lower() != "bearer" or not secret.strip():
            raise unauthenticated("authorization metadata must be 'Bearer TOKEN'")
        token = await asyncio.to_thread(self._verify_token, secret.strip())
        if token is None:
            raise unauthenticated("the token is not valid (wrong, or revoked)")
        return Caller(f"token:{token.name}", Role[token.role.upper()], peer, frozenset(one.lower() for one in token.domains))

    def _by_certificate(self, auth_context: Mapping[str, list[bytes]], peer: str) -> Caller | None:
        roles = self._certificate_roles()
        for name in auth_context.get("x509_common_name", ()):
            common_name = name.decode("utf-8", "replace")
            if common_name in roles:
                return Caller(f"cert:{_printable(common_name)}", Role[roles[common_name].upper()], peer)
        return None


def _printable(text: str) -> str:
    return "".join(c for c in text if c.isprintable())[:MAX_NAME] or "unknown"
