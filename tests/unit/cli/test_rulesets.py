"""`gatepost rules` against a running control plane: what is printed, what is refused, and with which exit status."""

from pathlib import Path

from support.control import Plane

HOSTED = '[rules."a.test"]\nkind = "hosted"\n'
HANDLER = HOSTED + '[rules."a.test".handlers]\nx = { kind = "forward", targets = ["y@far.test"] }\n'


async def test_a_file_is_checked_planned_applied_compared_and_taken_back(plane: Plane, cli, tmp_path: Path):
    file = tmp_path / "rules.toml"
    file.write_text(HANDLER)
    checked = await cli("rules", "check", str(file))
    assert (checked.code, checked.out) == (0, f"{file} can be applied: 1 rules, 1 handlers\n")
    planned = await cli("rules", "plan", str(file))
    assert planned.out.splitlines()[0] == "+ rule a.test"
    assert "planned for version 0: 1 change" in planned.out
    assert (await cli("rules", "apply", str(file))).code == 2, "must be asked, or told --yes"
    applied = await cli("rules", "apply", str(file), "--yes", "--comment", "first")
    assert applied.code == 0, applied.err
    assert "version 1 is in force: 1 change" in applied.out
    assert (await cli("rules", "log", "--json")).json[0]["comment"] == "first"
    await cli("rules", "apply", "-", "--yes", text=HOSTED)
    assert (await cli("rules", "diff", "1")).out.splitlines()[0] == "- handler x@a.test"
    await cli("rules", "restore", "1", "--yes")
    assert (await cli("rules", "export")).out.endswith(HANDLER.replace("\n[", "\n\n["))
    assert (await cli("rules", "export", "--version", "0")).out.endswith("format = 1\n")


async def test_a_faulty_file_is_told_as_file_and_line_and_fails(plane: Plane, cli, tmp_path: Path):
    file = tmp_path / "rules.toml"
    file.write_text(HOSTED + "prt = 3\n")
    for verb in ("check", "plan"):
        told = await cli("rules", verb, str(file))
        assert told.code == 1
        assert f"{file}:3: rules.\"a.test\".prt: there is no 'prt' here; did you mean 'port'?" in told.out
    refused = await cli("rules", "apply", str(file), "--yes")
    assert refused.code == 2
    assert "line 3" in refused.err
    assert (await cli("rules", "plan")).code == 2
    file.write_bytes(b"a = 1\n\xff")
    assert "line 2: not UTF-8" in (await cli("rules", "check", str(file))).err


async def test_a_plan_that_went_stale_is_a_conflict(plane: Plane, cli):
    await cli("rules", "apply", "-", "--yes", text=HOSTED)
    stale = await cli("rules", "apply", "-", "--yes", "--base", "0", text=HANDLER)
    assert stale.code == 6
    assert "planned for version 0" in stale.err
    assert (await cli("rules", "apply", "-", "--yes", "--any-base", text=HANDLER)).code == 0


async def test_warnings_go_to_standard_error_and_an_open_relay_needs_its_word(plane: Plane, cli):
    relay = '[rules."*"]\nkind = "mx"\naccept_untrusted = true\n'
    refused = await cli("rules", "apply", "-", "--yes", text=relay)
    assert refused.code == 2
    assert "open relay" in refused.err
    forced = await cli("rules", "apply", "-", "--yes", "--force", "open-relay", text=relay)
    assert forced.code == 0
    assert "[open-relay]" in forced.err


async def test_a_draft_is_begun_changed_and_applied(plane: Plane, cli, tmp_path: Path):
    file = tmp_path / "rules.toml"
    file.write_text(HOSTED)
    assert (await cli("rules", "draft", "put", "next")).code == 0
    assert (await cli("rules", "draft", "put", "next", str(file))).code == 0
    assert (await cli("rules", "draft", "show", "next")).out == HOSTED
    assert "next" in (await cli("rules", "draft", "list")).out
    assert "+ rule a.test" in (await cli("rules", "plan", "--draft", "next")).out
    assert (await cli("rules", "apply", "--draft", "next", "--yes")).code == 0
    assert (await cli("rules", "draft", "show", "next")).code == 3


async def test_a_secret_is_stored_from_standard_input(plane: Plane, cli):
    assert (await cli("rules", "secret", "smart-host", text="hush\n")).code == 0
    assert plane.directory.secret("smart-host") == "hush"


async def test_the_schema_is_printed(plane: Plane, cli):
    assert (await cli("rules", "schema")).json["title"] == "Gatepost rule document"


async def test_without_a_file_the_rules_in_force_are_checked(plane: Plane, cli):
    assert (await cli("rules", "check")).out == "the rules in force: 0 rules, 0 handlers, nothing odd\n"
    made = await cli("rule", "add", "b.test", "--kind", "alias", "--alias-of", "a.test")
    assert made.code == 2, "there is no rule that it could stand for"
    await cli("rule", "add", "*", "--kind", "mx")
    made = await cli("rule", "add", "b.test", "--kind", "alias", "--alias-of", "a.test")
    assert "stands for a.test, which has no rule of its own" in made.err and made.code == 0
    checked = await cli("rules", "check")
    assert (checked.code, checked.out.splitlines()[-1]) == (0, "the rules in force: 2 rules, 0 handlers, 1 odd")
    assert "[leads-nowhere]" in checked.out


async def test_an_open_relay_is_refused_unless_a_file_forces_it_by_its_word(plane: Plane, cli, tmp_path: Path):
    added = await cli("rule", "add", "*", "--kind", "mx", "--accept-untrusted")
    assert added.code == 2 and "gatepost rules apply FILE --force open-relay" in added.err
    file = tmp_path / "open.toml"
    file.write_text('[rules."*"]\nkind = "mx"\naccept_untrusted = true\n')
    refused = await cli("rules", "apply", str(file), "--yes")
    assert refused.code == 2 and "to do it all the same: --force open-relay" in refused.err
    assert (await cli("rules", "apply", str(file), "--yes", "--force", "yes")).code == 2
    assert not (await cli("rule", "list", "--json")).json
    forced = await cli("rules", "apply", str(file), "--yes", "--force", "open-relay")
    assert forced.code == 0 and "open relay" in forced.err


async def test_what_saving_one_entry_warns_of_is_printed(plane: Plane, cli):
    host = ("--host", "smart.test", "--tls", "required", "--username", "me", "--password-ref", "hop")
    told = await cli("sender", "add", "hop", "--domain", "a.test", *host)
    assert (told.code, "[unverified-login]" in told.err, "[no-secret]" in told.err) == (0, True, True)
    assert len((await cli("sender", "add", "hop", "--domain", "a.test", *host, "--json")).json["warnings"]) == 2
    assert (await cli("trust", "add", "office", "--network", "10.0.0.0/24")).err == ""


async def test_two_old_versions_are_compared_either_way(plane: Plane, cli):
    for domain in ("a.test", "b.test", "c.test"):
        await cli("domain", "add", domain)
    assert [line for line in (await cli("rules", "diff", "1", "2")).out.splitlines() if line[0] != " "] == ["+ rule b.test", "1 change"]
    assert (await cli("rules", "diff", "2", "1")).out.splitlines()[0] == "- rule b.test"
    assert (await cli("rules", "diff", "2", "9")).code == 3


async def test_what_was_set_is_said_and_listed(plane: Plane, cli):
    await cli("domain", "add", "a.test")
    await cli("user", "add", "bob@a.test", "--no-password")
    said = (await cli("rule", "set", "a.test", "--unknown", "mailbox", "--unknown-target", "bob@a.test")).out
    assert said == "a.test: mailboxes are here; unknown mailbox; unknown_target bob@a.test\n"
    said = (await cli("handler", "add", "a.test", "fax", "--kind", "mailbox", "--target", "bob@a.test", "--size-limit", "500K")).out
    assert said == "fax@a.test: mailbox bob@a.test; size_limit 512000\n"
    assert "size_limit 512000" in (await cli("handler", "list", "a.test")).out
    gone = (await cli("handler", "add", "a.test", "old", "--kind", "reject", "--valid-until", "2020-01-01")).err
    assert "[unreachable]" in gone
    assert "[unreachable]" in (await cli("handler", "add", "a.test", "fax+*", "--kind", "reject")).err
