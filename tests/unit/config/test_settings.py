"""Settings: where values come from, what is refused and in which words."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from gatepost.config import Settings, SettingsError, load_settings, setting_names
from gatepost.config.settings import default_hostname


def load(text: str = "", environ: dict[str, str] | None = None, tmp: Path | None = None, **more: Any) -> Settings:
    config = None
    if tmp is not None:
        config = tmp / "gatepost.toml"
        config.write_text(text)
    return load_settings(config, environ=environ or {}, **more)


def problems(overrides: dict[str, Any], environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load_settings(None, None, overrides, environ or {})
    return caught.value.problems


def test_without_file_and_environment_the_defaults_hold() -> None:
    settings = load()
    assert settings.listen.smtp == ("127.0.0.1:2525",)
    assert settings.listen.control_tcp == ("127.0.0.1:2551",)
    assert settings.trust.networks == ()
    assert settings.smtp.max_message_bytes == 50 << 20
    assert settings.smtp.require_tls_for_plaintext_auth
    assert settings.workers >= 1
    assert settings.data == Path("var")


def test_the_command_line_beats_the_environment_beats_the_file(tmp_path: Path) -> None:
    file = 'hostname = "file.test"\n[smtp]\nmax_hops = 1\nmax_recipients = 1\nmax_bad_commands = 1'
    environ = {"GATEPOST_SMTP__MAX_HOPS": "2", "GATEPOST_SMTP__MAX_RECIPIENTS": "2", "GATEPOST_DATA": "/env"}
    settings = load(file, environ, tmp_path, data=Path("/line"), overrides={"smtp.max_recipients": 3})
    assert (settings.smtp.max_bad_commands, settings.smtp.max_hops, settings.smtp.max_recipients) == (1, 2, 3)
    assert settings.hostname == "file.test"
    assert settings.data == Path("/line")


def test_nested_and_dotted_overrides_mean_the_same() -> None:
    assert load(overrides={"smtp": {"max_hops": 7}}) == load(overrides={"smtp.max_hops": 7})


def test_environment_lists_are_written_with_commas_or_as_json() -> None:
    commas = load(environ={"GATEPOST_LISTEN__SMTP": "[::1]:25, *:26", "GATEPOST_DNS__NAMESERVERS": "127.0.0.1"})
    json = load(environ={"GATEPOST_LISTEN__SMTP": '["[::1]:25", "0.0.0.0:26"]', "GATEPOST_DNS__NAMESERVERS": '["127.0.0.1"]'})
    assert commas == json
    assert commas.listen.smtp == ("[::1]:25", "0.0.0.0:26")


@pytest.mark.parametrize("off", ["", [], [""]])
def test_an_empty_list_turns_a_listener_off(off: object) -> None:
    assert load(overrides={"listen.pop3": off}).listen.pop3 == ()


def test_environment_tables_are_written_with_commas_or_as_json() -> None:
    for text in ("ci=admin, watch=viewer", '{"ci": "admin", "watch": "viewer"}'):
        assert load(environ={"GATEPOST_CONTROL__CLIENT_ROLES": text}).control.client_roles == {"ci": "admin", "watch": "viewer"}


@pytest.mark.parametrize(("text", "octets"), [("3 MiB", 3 << 20), ("64KB", 64_000), ("2048", 2048), ("1gib", 1 << 30), (4096, 4096)])
def test_sizes_take_a_unit(text: object, octets: int) -> None:
    assert load(overrides={"smtp.max_message_bytes": text}).smtp.max_message_bytes == octets


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("smtp.max_hops", 0, "smtp.max_hops: must be at least 1 (got 0)"),
        ("smtp.max_hops", "many", "smtp.max_hops: must be a whole number (got 'many')"),
        ("smtp.max_hops", 1.5, "smtp.max_hops: must be a whole number (got 1.5)"),
        ("smtp.max_message_bytes", "3 Mb/s", "smtp.max_message_bytes: must be a number of octets"),
        ("smtp.max_message_bytes", 10, "smtp.max_message_bytes: must be at least 1024 (got 10)"),
        ("smtp.allow_bare_newlines", "maybe", "smtp.allow_bare_newlines: must be true or false (got 'maybe')"),
        ("smtp.idle_seconds", 0, "smtp.idle_seconds: must be more than 0 (got 0)"),
        ("smtp.idle_seconds", float("inf"), "smtp.idle_seconds: "),
        ("smtp.recipient_delimiter", "++", "smtp.recipient_delimiter: must be at most 1 character (got '++')"),
        ("smtp.max_hop", 3, "smtp.max_hop: unknown setting, did you mean smtp.max_hops? (got 3)"),
        ("max_hops", 3, "max_hops: unknown setting, did you mean smtp.max_hops? (got 3)"),
        ("lisen", {}, "lisen: unknown setting, did you mean listen? (got {})"),
        ("smtp", 3, "smtp: must be a table (got 3)"),
        ("listen.smtp", ["25"], "listen.smtp: must be host:port (got '25')"),
        ("listen.smtp", ["::1:25"], "listen.smtp: an IPv6 address needs brackets, as in [::1]:25 (got '::1:25')"),
        ("listen.smtp", ["h:99999"], "listen.smtp: the port must be 0 to 65535 (got 'h:99999')"),
        ("listen.smtp", 25, "listen.smtp: must be a list of host:port (got 25)"),
        ("trust.networks", ["10.0.0.1/8"], "trust.networks: '10.0.0.1/8' is not a network"),
        ("trust.networks", ["0.0.0.0/0"], "trust.networks: '0.0.0.0/0' is everybody, which would make this server an open relay"),
        ("dns.nameservers", ["ns1"], "dns.nameservers: must be an IP address (got ['ns1'])"),
        ("hostname", "a b", "hostname: must be a host name"),
        ("log.level", "loud", "log.level: must be 'debug', 'info', 'warning' or 'error' (got 'loud')"),
        ("tls.cert_file", "c.pem", "tls.key_file: must be set too"),
        ("control.client_roles", {"ci": "root"}, "control.client_roles.ci: must be admin, operator or viewer (got 'root')"),
        ("queue.retry_max_seconds", 1, "queue.retry_max_seconds: must not be less than retry_initial_seconds (got 1)"),
    ],
)
def test_a_fault_names_its_key_the_problem_and_what_it_got(key: str, value: object, problem: str) -> None:
    (found,) = problems({key: value})
    assert found.startswith(problem)
    assert "(got " in found


def test_all_faults_are_told_at_once() -> None:
    found = problems({"smtp.max_hops": 0, "log.level": "x"}, {"GATEPOST_SMPT__MAX_HOPS": "3"})
    assert [line.partition(":")[0] for line in found] == ["GATEPOST_SMPT__MAX_HOPS", "smtp.max_hops", "log.level"]
    assert "did you mean smtp.max_hops?" in found[0]


def test_environment_variables_of_others_are_left_alone() -> None:
    load(environ={"GATEPOST_TOKEN": "x", "GATEPOST": "y", "PATH": "z"})


@pytest.mark.parametrize(("text", "problem"), [("a = ", "not TOML"), ("[smtp]\nmax_hops = 0", "smtp.max_hops"), ("\x00", "not TOML")])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        load(text, tmp=tmp_path)


def test_a_missing_and_a_huge_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.toml: cannot be read"):
        load_settings(tmp_path / "nowhere.toml", environ={})
    big = tmp_path / "big.toml"
    big.write_bytes(b"#" * (2 << 20))
    with pytest.raises(SettingsError, match="larger than"):
        load_settings(big, environ={})


def test_settings_do_not_change_and_travel_as_json() -> None:
    settings = load(overrides={"listen.smtp": ["[::1]:0"], "control.client_roles": {"a": "viewer"}})
    with pytest.raises(ValidationError):
        settings.smtp.max_hops = 3  # type: ignore[misc]
    assert Settings.model_validate_json(settings.model_dump_json()) == settings


def test_every_setting_has_a_description_and_times_and_sizes_tell_their_unit() -> None:
    names = list(setting_names())
    assert len(set(names)) == len(names) > 60
    for section_name, section_field in Settings.model_fields.items():
        fields = getattr(type(section_field.default), "model_fields", {section_name: section_field})
        for name, field in fields.items():
            assert field.description, f"{section_name}.{name}"
            assert not name.endswith("_seconds") or field.description.endswith("In seconds."), name
            assert not name.endswith("_bytes") or field.description.endswith("In octets."), name


def test_the_default_host_name_is_found_quickly_and_fit_for_a_greeting() -> None:
    assert load().hostname == default_hostname()
