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
    assert (await cli("rules", "check")).code == 2
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
