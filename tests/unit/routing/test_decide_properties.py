"""Properties of decide() over rule sets nobody thought of: it never raises, always ends, and is never an open relay."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from gatepost.message.address import parse_address
from gatepost.routing.decide import MAX_EXPANSION, decide
from gatepost.routing.model import (
    AddressHandler,
    DomainRule,
    HandlerKind,
    HandlerOptions,
    Mailbox,
    Program,
    Question,
    Route,
    RouteKind,
    RuleKind,
    RuleSet,
    RuleSettings,
    TlsPolicy,
)
from gatepost.routing.settings import (
    NO_OPTIONS,
    NO_SETTINGS,
    Disclaimer,
    ListSettings,
    Posters,
    Transport,
    TransportKind,
    UnknownRecipients,
)

LOCALS = ["alice", "bob", "postmaster", "a", "sales-1", "x%far.test", "far.test!x", "o+d", "alice+detail"]
DOMAINS = ["example.test", "sub.example.test", "a.sub.example.test", "partner.test", "far.test", "b\u00fccher.test", "xn--bcher-kva.test"]
RULE_DOMAINS = ["*", "*.example.test", "*.test", *DOMAINS[:5], "xn--bcher-kva.test"]

addresses = st.builds("{}@{}".format, st.sampled_from(LOCALS), st.sampled_from(DOMAINS))
options = st.builds(
    HandlerOptions,
    size_limit=st.sampled_from([0, 100]),
    require_tls=st.booleans(),
    valid_from=st.sampled_from([0, 100]),
    valid_until=st.sampled_from([0, 200]),
    srs=st.booleans(),
    list=st.builds(
        ListSettings, owners=st.lists(addresses, max_size=1).map(tuple), may_post=st.sampled_from(Posters), moderated=st.booleans()
    ),
    transport=st.none()
    | st.just(Transport(TransportKind.SMTP, "10.0.0.2"))
    | st.just(Transport(TransportKind.PIPE, program=Program(("/p",)))),
)
handlers = st.builds(
    AddressHandler,
    st.sampled_from(["alice", "bob", "a", "postmaster", "sales-*", "*-1", "a*", "*", "alice+detail", "/[ab].*/", "/(/"]),
    st.sampled_from(HandlerKind),
    st.lists(addresses, max_size=3).map(tuple),
    options=st.just(NO_OPTIONS) | options,
)
rule_settings = st.builds(
    RuleSettings,
    size_limit=st.sampled_from([0, 100]),
    unknown=st.sampled_from(UnknownRecipients),
    unknown_target=addresses,
    disclaimer=st.none() | st.just(Disclaimer(footer_text="x")),
    journal=st.just("") | addresses,
    alias_of=st.sampled_from(DOMAINS[:5]),
)
rules = st.builds(
    DomainRule,
    st.sampled_from(RULE_DOMAINS),
    st.sampled_from(RuleKind),
    host=st.just("gateway.test"),
    tls=st.sampled_from(TlsPolicy),
    lmtp=st.booleans(),
    accept_untrusted=st.booleans(),
    handlers=st.lists(handlers, max_size=4).map(tuple),
    settings=st.just(NO_SETTINGS) | rule_settings,
)
mailboxes = st.lists(
    st.builds(
        Mailbox, addresses.map(lambda text: parse_address(text).key), st.binary(min_size=16, max_size=16), st.just("main"), st.booleans()
    ),
    max_size=5,
)


def _rule_set(its_rules: list[DomainRule], its_mailboxes: list[Mailbox]) -> RuleSet:
    return RuleSet(1, {rule.domain: rule for rule in its_rules}, {mailbox.address: mailbox for mailbox in its_mailboxes})


rule_sets = st.builds(_rule_set, st.lists(rules, max_size=6), mailboxes)
recipients = st.one_of(
    addresses,
    addresses.map(str.upper),
    addresses.map(lambda text: text + "."),
    st.text(max_size=40),
    st.builds('"{}"@{}'.format, st.text(max_size=12), st.sampled_from(DOMAINS)),
    st.builds("@{}:{}".format, st.sampled_from(DOMAINS), addresses),
    st.sampled_from(
        [
            "",
            "@",
            "postmaster",
            "x@[127.0.0.1]",
            "x@[IPv6:::1]",
            "x@[IPv6:::1%eth0]",
            "x@[",
            "a@b@c",
            "\ud800@example.test",
            "x@" + "a." * 200,
        ]
    ),
)


questions = st.builds(
    Question,
    st.sampled_from(["", "alice@example.test", "x@far.test"]),
    st.just(""),
    st.just(False),
    size=st.sampled_from([0, 10, 1000]),
    tls=st.booleans(),
    now=st.sampled_from([0, 50, 150, 250]),
    client=st.sampled_from(["", "10.0.0.1"]),
)


def leaves(route: Route) -> bool:
    return route.kind in (RouteKind.SMTP, RouteKind.LMTP)


def addresses_named(rule: DomainRule) -> list[str]:
    """Where a rule and its handlers send mail in words."""
    named = [rule.settings.unknown_target, rule.settings.journal]
    for handler in rule.handlers:
        if handler.kind in (HandlerKind.FORWARD, HandlerKind.COPY, HandlerKind.LIST):
            named += handler.targets
        if handler.kind is HandlerKind.LIST and handler.options.list is not None:
            named += handler.options.list.owners
    return [one for one in named if one]


def named_in_words(rule_set: RuleSet, route: Route) -> bool:
    """Whether a rule or a handler of the administrator sends mail of anyone to this route's address."""
    address = parse_address(route.address)
    if address.key in {parse_address(target).key for rule in rule_set.rules.values() for target in addresses_named(rule)}:
        return True
    if any(handler.kind is HandlerKind.TRANSPORT for rule in rule_set.rules.values() for handler in rule.handlers) and (
        route.host == "10.0.0.2"
    ):
        return not any(c in address.local for c in "@%!")
    candidates = [address.domain, *("*" + address.domain[n:] for n, c in enumerate(address.domain) if c == "."), "*"]
    rule = next((rule_set.rules[name] for name in candidates if name in rule_set.rules), None)
    if rule is None or any(c in address.local for c in "@%!"):
        return False
    if rule.settings.unknown is UnknownRecipients.RELAY and route.host == rule.host:
        return True
    if rule.kind in (RuleKind.GATEWAY, RuleKind.HOLD):
        return rule.domain != "*" or rule.accept_untrusted
    return rule.kind is RuleKind.MX and rule.accept_untrusted


@settings(max_examples=250, deadline=None)
@given(rule_sets, recipients)
def test_an_untrusted_sender_reaches_a_remote_destination_only_where_a_rule_or_handler_says_so(rule_set: RuleSet, recipient: str) -> None:
    decision = decide(rule_set, Question("spoofed@example.test", recipient, False))
    for route in decision.routes:
        assert not leaves(route) or named_in_words(rule_set, route), (route, decision.trace)


@settings(max_examples=250, deadline=None)
@given(rule_sets, recipients, st.booleans(), st.sampled_from(["+", "-", ""]))
def test_every_question_has_either_routes_or_a_reply_and_a_trace_that_says_so(
    rule_set: RuleSet, recipient: str, trusted: bool, delimiter: str
) -> None:
    decision = decide(rule_set, Question("", recipient, trusted), delimiter=delimiter)
    assert bool(decision.routes) != (decision.reply is not None)
    assert decision.trace[0].step == "trust"
    assert decision.reply is None or decision.trace[-1].step == "reply"
    assert len(decision.routes) <= MAX_EXPANSION
    for route in decision.routes:
        assert Route.decode(route.encode()) == route
        assert route.kind is RouteKind.DISCARD or route.destination
        parse_address(route.address)


@settings(max_examples=150, deadline=None)
@given(rule_sets, recipients, st.booleans())
def test_routes_of_one_decision_are_all_different(rule_set: RuleSet, recipient: str, trusted: bool) -> None:
    routes = decide(rule_set, Question("", recipient, trusted)).routes
    keys = [(route.mailbox_id if route.kind is RouteKind.LOCAL else route.address.lower(), route.destination) for route in routes]
    assert len(set(keys)) == len(keys)


@settings(max_examples=150, deadline=None)
@given(rule_sets, recipients, st.booleans())
def test_the_answer_does_not_depend_on_who_asked_before(rule_set: RuleSet, recipient: str, trusted: bool) -> None:
    fresh = RuleSet(rule_set.version, rule_set.rules, rule_set.mailboxes)
    decide(rule_set, Question("", recipient, not trusted))
    decide(rule_set, Question("alice@example.test", recipient, trusted))
    first = decide(rule_set, Question("a@b.test", recipient, trusted))
    assert decide(rule_set, Question("a@b.test", recipient, trusted)) == first
    assert decide(fresh, Question("a@b.test", recipient, trusted)) == first


@settings(max_examples=150, deadline=None)
@given(rule_sets, recipients, questions, questions)
def test_a_fixed_answer_holds_for_every_sender_client_and_time(
    rule_set: RuleSet, recipient: str, first: Question, second: Question
) -> None:
    fresh = RuleSet(rule_set.version, rule_set.rules, rule_set.mailboxes)
    answer = decide(rule_set, replace(first, recipient=recipient))
    if answer.fixed and not answer.size_limit:
        assert decide(fresh, replace(second, recipient=recipient)) == answer


@settings(max_examples=150, deadline=None)
@given(rule_sets, recipients)
def test_mail_that_an_untrusted_sender_may_send_a_trusted_one_may_send_too(rule_set: RuleSet, recipient: str) -> None:
    if decide(rule_set, Question("", recipient, False)).routes:
        assert decide(rule_set, Question("", recipient, True)).routes
