"""What a condition of a stage policy costs: microseconds of processor time for each of some typical ones, and for all policies of a stage.

Run by hand: `.venv/bin/python benches/stages.py`. Each is evaluated for the same facts, which make it look at all its parts; best of five.
"""

import time
import timeit

from gatepost.routing.stage_facts import AddressFacts, ClientFacts, Facts, MessageFacts, RateFacts, ScanFacts
from gatepost.routing.stages import Stage, StageAction, StagePolicies, StagePolicy, compiled

TIMES = 20_000
CONDITIONS = (
    (Stage.MAIL, "sender.domain == 'a.test' || sender.domain == 'b.test'"),
    (Stage.MAIL, "!client.trusted && sender.domain in ['a.test', 'c.test', 'd.test', 'e.test']"),
    (Stage.CONNECT, "client.within('192.0.2.0/24')"),
    (Stage.RCPT, "!client.tls && client.helo.startsWith('mx') && recipient.domain.endsWith('.example.org') && sender.local != 'x'"),
    (Stage.DATA, "message.size > 1000 && message.recipients.exists(r, r.endsWith('@far.test'))"),
    (Stage.DATA, "message.header('subject').exists(s, s.matches('(?i)invoice [0-9]+'))"),
    (Stage.DATA, "scan.score > 5.0 && !client.trusted"),
)


def facts() -> Facts:
    """Of a message of three recipients."""
    header = {"subject": ["Your Invoice 4711 of today"]}
    return Facts(
        ClientFacts("198.51.100.7", "smtp", helo="mx.far.test"),
        AddressFacts("someone@b.test"),
        AddressFacts("alice@mail.example.org"),
        message=MessageFacts(4000, ("a@example.org", "b@example.org", "c@far.test"), lambda name: header.get(name, ())),
        scan=ScanFacts(score=7.0),
        rate=RateFacts(),
    )


def best(work: object) -> float:
    """Microseconds of one call."""
    return min(timeit.repeat(work, timer=time.process_time, number=TIMES, repeat=5)) / TIMES * 1e6  # type: ignore[arg-type]  # a callable


def main() -> None:
    """Print the table."""
    known = facts()
    values = known.values()
    for stage, condition in CONDITIONS:
        program = compiled(StagePolicy(name="x", stage=stage, when=condition, action=StageAction.NOTIFY))
        print(f"{best(lambda program=program: program.evaluate(*values)):6.2f} µs  {condition}")
    ten = [StagePolicy(name=f"p{n}", stage=Stage.MAIL, when=CONDITIONS[1][1], action=StageAction.NOTIFY) for n in range(10)]
    policies = StagePolicies(ten)
    print(f"{best(lambda: policies.ask(Stage.MAIL, known)):6.2f} µs  ten policies at MAIL, asked and noted")


if __name__ == "__main__":
    main()
