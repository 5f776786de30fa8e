"""Rule documents: what is written is read back, every fault is told with its line and field, the schema in docs/ is the model's."""

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatepost.routing import document as documents
from gatepost.routing.document import Document, parse, render
from gatepost.routing.model import AddressHandler, DomainRule, HandlerKind, RuleKind, TlsPolicy
from gatepost.routing.schema import schema_text
from gatepost.routing.toml_lines import Lines
from gatepost.scan.policy import Policy

DOCS = Path(__file__).parents[3] / "docs"

texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)
names = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF, exclude_categories=("Cs", "Cc")), min_size=1, max_size=12)
handlers = st.builds(AddressHandler, names, st.sampled_from(HandlerKind), st.lists(texts, max_size=3).map(tuple), text=texts, policy=texts)
rules = st.builds(
    DomainRule,
    names,
    st.sampled_from(RuleKind),
    host=texts,
    port=st.integers(1, 65535),
    tls=st.sampled_from(TlsPolicy),
    implicit_tls=st.booleans(),
    lmtp=st.booleans(),
    text=texts,
    accept_untrusted=st.booleans(),
    handlers=st.lists(handlers, max_size=4, unique_by=lambda one: one.pattern).map(tuple),
)
some_documents = st.builds(
    Document, st.lists(rules, max_size=4, unique_by=lambda one: one.domain).map(tuple), st.dictionaries(names, texts, max_size=3)
)


def ordered(document: Document) -> Document:
    """The handlers of each rule by pattern, as they are stored."""
    sort = lambda rule: replace(rule, handlers=tuple(sorted(rule.handlers, key=lambda one: one.pattern)))  # noqa: E731
    return Document(tuple(map(sort, document.rules)), document.policies)


@given(some_documents, texts)
@settings(max_examples=60, deadline=None)
def test_what_is_written_is_read_back(document: Document, comment: str) -> None:
    text = render(document, comment)
    parsed = parse(text)
    assert parsed.problems == ()
    assert parsed.document is not None
    assert ordered(parsed.document) == ordered(document)
    assert render(parsed.document, comment) == text


@given(some_documents)
@settings(max_examples=60, deadline=None)
def test_each_rule_and_handler_is_found_on_its_line(document: Document) -> None:
    text = render(document)
    known, rows = Lines(text), text.split("\n")
    for rule in document.rules:
        assert documents.dotted((rule.domain,)) in rows[known.of(("rules", rule.domain)) - 1]
        for handler in rule.handlers:
            assert documents.dotted((handler.pattern,)) in rows[known.of(("rules", rule.domain, "handlers", handler.pattern)) - 1]


FAULTY = '''\
format = 1
colour = "red"

[rules."a.test"]
kind = "hostd"
prt = 3
accept_untrusted = "yes"

[rules."a.test".handlers]
sales = { kind = "forward", targts = ["x@a.test"] }
"*" = { text = 3 }

[rules."b.test"]
kind = "gateway"
password = "hush"
handlers = 7

[[rules.c]]

[policies]
strict = """
[rules."d.test"]
""" # not a header
lax = 5
'''


def test_every_fault_is_told_with_line_field_and_nearest_name() -> None:
    parsed = parse(FAULTY)
    assert parsed.document is None
    assert [(one.line, one.field) for one in parsed.problems] == [
        (2, "colour"),
        (5, 'rules."a.test".kind'),
        (6, 'rules."a.test".prt'),
        (7, 'rules."a.test".accept_untrusted'),
        (10, 'rules."a.test".handlers.sales.targts'),
        (11, 'rules."a.test".handlers."*".text'),
        (11, 'rules."a.test".handlers."*".kind'),
        (15, 'rules."b.test".password'),
        (16, 'rules."b.test".handlers'),
        (18, "rules.c"),
        (24, "policies.lax"),
    ]
    told = "\n".join(map(str, parsed.problems))
    assert "did you mean 'hosted'?" in told
    assert "did you mean 'port'?" in told
    assert "did you mean 'targets'?" in told
    assert "password_ref" in told
    assert "hush" not in told


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("a = ", 1, "Invalid value"),
        ('\n[rules."a"]\nkind="mx"\n[rules."a"]\nkind="mx"', 4, "Cannot declare"),
        pytest.param("a = " + "[" * 5000, 0, "nested too deeply", id="deep"),
        pytest.param("x" * (documents.MAX_OCTETS + 1), 0, "longer than", id="huge"),
        ("format = 2", 1, "this Gatepost knows 1"),
    ],
)
def test_what_is_no_document_is_refused_in_words(text: str, line: int, problem: str) -> None:
    parsed = parse(text)
    assert parsed.document is None
    assert parsed.problems[0].line == line
    assert problem in parsed.problems[0].problem


@pytest.mark.parametrize(("options", "port"), [("", 25), ("lmtp = true", 24), ("implicit_tls = true", 465), ("lmtp = true\nport = 25", 25)])
def test_a_gateway_without_a_port_has_the_usual_one(options: str, port: int) -> None:
    document = parse(f'[rules.a]\nkind = "gateway"\nhost = "h"\n{options}').document
    assert document is not None
    assert document.rules[0].port == port
    assert parse(render(document)).document == document


def test_a_policy_stands_in_the_document_as_its_author_wrote_it() -> None:
    policy = '# why\n[[rules]]\nname = "programs"\n'
    text = render(Document((), {"strict": policy}))
    assert policy in text
    assert tomllib.loads(text)["policies"]["strict"] == policy


def test_the_example_of_the_page_is_a_document() -> None:
    example = (DOCS / "rule-files.md").read_text("utf-8").split("```toml\n")[1].split("```")[0]
    parsed = parse(example)
    assert parsed.problems == ()
    assert parsed.document is not None
    assert Policy.model_validate(tomllib.loads(parsed.document.policies["strict"])).rules


def test_the_schema_in_the_documents_is_that_of_the_model() -> None:
    kept = (DOCS / "rules.schema.json").read_text("utf-8")
    assert kept == schema_text(), "write it anew: gatepost rules schema > docs/rules.schema.json"
