"""What the soak knows of every message it sent, and the judgement at the end: nothing acknowledged is lost, nothing local is there
twice."""

import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum


class Word(Enum):
    """How sure the sender or the operator may be of something."""

    NO = "no"
    DOUBT = "in doubt"
    YES = "acknowledged"


@dataclass(slots=True)
class Sent:
    """One message: local recipients by user, remote ones as one copy for each."""

    name: str
    users: tuple[str, ...]
    remote: tuple[str, ...]
    accepted: Word = Word.NO
    removed: Word = Word.NO
    queue_id: str = ""


@dataclass(slots=True)
class Verdict:
    """Every loss, duplicate and return from the dead, in words, with the message's id."""

    faults: list[tuple[str, str]] = field(default_factory=list)
    """(queue id or '', what is wrong)"""
    remote_repeats: int = 0
    """Copies that a remote side got more than once: SMTP allows them."""


class Ledger:
    """All messages by name. Used by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.messages: dict[str, Sent] = {}
        self._by_id: dict[str, Sent] = {}

    def add(self, sent: Sent) -> None:
        """A message is about to be sent."""
        with self._lock:
            self.messages[sent.name] = sent

    def accepted(self, sent: Sent, word: Word, queue_id: str = "") -> None:
        """How the server answered: YES with its id, DOUBT when the connection broke after the data."""
        with self._lock:
            sent.accepted, sent.queue_id = word, queue_id
            if queue_id:
                self._by_id[queue_id] = sent

    def removed(self, queue_ids: Iterable[str], word: Word) -> None:
        """An operator's removal: YES once the server said so."""
        with self._lock:
            for queue_id in queue_ids:
                sent = self._by_id.get(queue_id)
                if sent is not None and sent.removed is not Word.YES:
                    sent.removed = word

    def count(self, word: Word) -> int:
        """Messages whose acceptance is so sure."""
        with self._lock:
            return sum(1 for sent in self.messages.values() if sent.accepted is word)

    def removals(self) -> int:
        """Messages whose removal was acknowledged."""
        with self._lock:
            return sum(1 for sent in self.messages.values() if sent.removed is Word.YES)

    def judge(self, boxes: dict[str, Counter[str]], received: Counter[str]) -> Verdict:
        """`boxes`: user → name → copies in the mailbox; `received`: name → copies at the remote sides."""
        verdict = Verdict()
        for sent in self.messages.values():
            for user in sent.users:
                self._judge_local(sent, user, boxes[user][sent.name], verdict)
            if sent.remote:
                self._judge_remote(sent, received[sent.name], verdict)
        known = set(self.messages)
        strangers = {name for found in (*boxes.values(), received) for name in found} - known
        verdict.faults += [("", f"{name}: nobody sent this") for name in sorted(strangers)]
        return verdict

    @staticmethod
    def _judge_local(sent: Sent, user: str, copies: int, verdict: Verdict) -> None:
        if copies > 1:
            verdict.faults.append((sent.queue_id, f"{sent.name}: {copies} copies in the mailbox of {user}"))
        elif copies == 0 and sent.accepted is Word.YES and sent.removed is Word.NO:
            verdict.faults.append((sent.queue_id, f"{sent.name}: acknowledged, not in the mailbox of {user}"))
        elif copies and sent.accepted is Word.NO:
            verdict.faults.append((sent.queue_id, f"{sent.name}: refused, yet in the mailbox of {user}"))

    @staticmethod
    def _judge_remote(sent: Sent, copies: int, verdict: Verdict) -> None:
        wanted = len(sent.remote)
        if copies < wanted and sent.accepted is Word.YES and sent.removed is Word.NO:
            verdict.faults.append((sent.queue_id, f"{sent.name}: acknowledged, {copies} of {wanted} copies arrived"))
        elif copies and sent.removed is Word.YES:
            verdict.faults.append((sent.queue_id, f"{sent.name}: removed, yet delivered {copies} times"))
        elif copies and sent.accepted is Word.NO:
            verdict.faults.append((sent.queue_id, f"{sent.name}: refused, yet delivered"))
        verdict.remote_repeats += max(0, copies - wanted)
