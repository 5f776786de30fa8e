"""Attachment policies. `client.policies` of GatepostClient."""

from collections.abc import AsyncIterator
from typing import Any

from gatepost.api.policies.v1 import policies_pb2 as api
from gatepost.api.policies.v1 import policies_pb2_grpc
from gatepost.client.connection import Connection, pages
from gatepost.client.values import Policy, PolicyFinding, PolicyTrial, RecipientFate

TRIAL_TIMEOUT = 120.0
"""A trial fetches the message and inspects it, after those before it."""


class Policies:
    """Every method raises the errors of gatepost.client.errors. An etag '' means: whatever is there now."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = policies_pb2_grpc.PoliciesServiceStub(connection.channel)

    async def list(self) -> AsyncIterator[Policy]:
        """Policies by name, without their text."""

        async def fetch(token: str) -> Any:
            return await self._connection.call(self._stub.ListPolicies, api.ListPoliciesRequest(page_token=token))

        async for one in pages(fetch, lambda answer: answer.policies):
            yield _policy(one)

    async def get(self, name: str) -> Policy:
        """One policy."""
        return _policy((await self._connection.call(self._stub.GetPolicy, api.GetPolicyRequest(name=name))).policy)

    async def check(self, text: str) -> str:
        """What is wrong with a text; '' when it would be taken."""
        return str((await self._connection.call(self._stub.CheckPolicy, api.CheckPolicyRequest(text=text))).fault)

    async def apply(self, name: str, text: str, *, etag: str = "") -> Policy:
        """Add a policy or replace its text."""
        request = api.ApplyPolicyRequest(name=name, text=text, etag=etag)
        return _policy((await self._connection.call(self._stub.ApplyPolicy, request)).policy)

    async def delete(self, name: str, *, etag: str = "") -> None:
        """Remove a policy that nothing names."""
        await self._connection.call(self._stub.DeletePolicy, api.DeletePolicyRequest(name=name, etag=etag))

    async def try_on(self, message_id: str, policy: str = "", *, text: str = "") -> PolicyTrial:
        """What the policy (default: that of each recipient; `text` is one that is not stored) would do to a message of the queue."""
        request = api.TryPolicyRequest(message_id=message_id, policy=policy, text=text)
        answer = await self._connection.call(self._stub.TryPolicy, request, TRIAL_TIMEOUT)
        return PolicyTrial(
            answer.action,
            answer.policy,
            answer.rule,
            answer.reason,
            tuple(PolicyFinding(one.path, one.rule, one.action, one.why) for one in answer.findings),
            answer.omitted,
            tuple(RecipientFate(one.address, one.policy, one.fate) for one in answer.recipients),
            tuple(answer.stripped),
            answer.subject,
            tuple(answer.copies),
            answer.inspection,
            answer.entry_count,
        )


def _policy(one: api.Policy) -> Policy:
    return Policy(one.name, one.text, one.description, one.rule_count, tuple(one.used_by), one.etag)
