"""The command line as scripts see it: JSON shapes, tables in a pipe, exit codes, error texts."""

import asyncio
import json
import re
import sys
from pathlib import Path

import pytest

from gatepost.queue.actions import Order
from gatepost.scan.scanners.breaker import State
from gatepost.scan.scanners.entry import ScannerState
from support.control import Plane

# conftest's names, which importlib mode does not let us import
PROGRAM = "import sys; from gatepost.cli.main import main; sys.exit(main())"
PASSWORD = "a long enough password"


async def test_queue_list_is_a_whole_table_in_a_pipe_and_an_array_as_json(plane: Plane, cli):
    recipient = f"{'long-' * 20}name@example.net"
    one = plane.workers[1].queue.add(1, recipient, "b@example.net", sender="", held=True)
    table = await cli("queue", "list")
    assert table.code == 0
    header, row = table.out.splitlines()
    assert header.split() == ["ID", "AGE", "SIZE", "STATE", "SENDER", "RECIPIENT", "NEXT", "LAST"]
    assert one in row
    assert f"{recipient} +1" in row
    assert "<>" in row
    assert "held" in row
    assert "\x1b" not in table.out
    (message,) = (await cli("queue", "list", "--json")).json
    assert message["message_id"] == one
    assert set(message) >= {"sender", "size", "received", "origin", "held", "in_flight", "worker", "recipient_count", "recipients"}
    assert message["recipients"][0]["address"] == recipient
    assert message["recipients"][0]["state"] == "PENDING"
    assert message["recipients"][0]["last_reply"] == {
        "code": 451, "enhanced": "4.7.1", "text": "greylisted", "host": "mx.example[192.0.2.9]:25", "command": "",
    }  # fmt: skip
    assert message["received"].endswith("Z")
    assert (await cli("queue", "list", "--not-held", "--json")).json == []
    nothing = await cli("queue", "list", "--sender", "nobody@*")
    assert (nothing.out, nothing.err.strip()) == ("", "no messages")


async def test_queue_show_and_cat(plane: Plane, cli):
    one = plane.workers[0].queue.add(1, body=b"Subject: \x1b[2Jclear\r\nX-A: b\r\n\r\nbody\xff\r\n")
    shown = await cli("queue", "show", one[:13])
    assert "rcpt@example.net  pending, 1 attempts" in shown.out
    assert "451 4.7.1 greylisted from mx.example[192.0.2.9]:25" in shown.out
    assert "\x1b" not in shown.out  # a message must not steer the terminal
    details = (await cli("queue", "show", one, "--json")).json
    assert details["message_id"] == one
    assert details["history"][0]["kind"] == "deferred"
    assert details["headers"][1] == ["X-A", "b"]
    assert (await cli("queue", "cat", one)).raw == plane.workers[0].queue.bodies[next(iter(plane.workers[0].queue.bodies))]


async def test_messages_are_held_released_and_retried_by_id_filter_or_all(plane: Plane, cli):
    ids = [plane.workers[number % 2].queue.add(number, f"u{number}@example.net") for number in range(1, 5)]
    assert (await cli("queue", "hold", ids[0], ids[1])).out == "2 messages held\n"
    assert (await cli("queue", "release", "--held")).out == "2 messages selected\n2 messages released\n"
    result = (await cli("queue", "hold", "--recipient", "u3@*", "--json")).json
    assert {key: result[key] for key in ("matched", "changed", "message_ids", "partial", "warnings")} == {
        "matched": 1, "changed": 1, "message_ids": [ids[2]], "partial": False, "warnings": [],
    }  # fmt: skip
    assert (await cli("queue", "hold", "--all")).out == "4 messages selected\n3 messages held, 1 unchanged\n"
    assert "would be made due now" in (await cli("queue", "retry", "--all", "--dry-run")).out


async def test_bulk_removal_in_a_pipe_needs_yes(plane: Plane, cli):
    ids = [plane.workers[0].queue.add(number) for number in range(1, 4)]
    refused = await cli("queue", "remove", "--all")
    assert refused.code == 2
    assert "--yes" in refused.err
    assert len(plane.workers[0].queue.rows) == 3
    assert (await cli("queue", "remove", ids[0])).code == 0
    assert (await cli("queue", "remove", "--all", "--yes", "--dsn")).out == "2 messages selected\n2 messages removed\n"
    assert plane.workers[0].queue.calls[-1][3] is True


async def test_a_selection_has_to_be_one_thing(plane: Plane, cli):
    for arguments in ((), ("--all", "--held"), ("01930000-0001", "--all")):
        ran = await cli("queue", "hold", *arguments)
        assert ran.code == 2
        assert "which messages" in ran.err


async def test_queue_reroute_pause_resume_destinations_and_stats(plane: Plane, cli):
    one = plane.workers[0].queue.add(1)
    rerouted = await cli("queue", "reroute", one, "--host", "192.0.2.5", "--port", "2500", "--lmtp")
    assert "now goes to lmtp:[192.0.2.5]:2500" in rerouted.out
    assert (await cli("queue", "reroute", one)).code == 2
    (destination,) = (await cli("queue", "destinations", "--json")).json
    assert destination["pending"] == 1
    assert (await cli("queue", "pause", destination["name"])).out.startswith(f"{destination['name']} paused")
    assert "paused" in (await cli("queue", "destinations")).out
    assert (await cli("queue", "resume", destination["name"])).code == 0
    stats = (await cli("queue", "stats", "--json")).json
    assert stats["total"]["messages"] == 1
    assert sorted(stats["workers"]) == ["0", "1"]
    assert "MESSAGES" in (await cli("queue", "stats")).out


async def test_watch_prints_a_line_of_json_for_each_event(plane: Plane):
    one = plane.workers[1].queue.add(1)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM, "queue", "watch", "--json", "--count", "1", "--data", str(plane.data)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert b"watching" in await asyncio.wait_for(process.stderr.readline(), 20)
    await plane.workers[1].queue.hold(b"".join(plane.workers[1].queue.rows), Order("test"))
    event = json.loads(await asyncio.wait_for(process.stdout.readline(), 20))
    assert (event["kind"], event["message_id"], event["worker"]) == ("held", one, 1)
    assert await asyncio.wait_for(process.wait(), 20) == 0


async def test_domains_and_users(plane: Plane, cli):
    assert (await cli("domain", "add", "a.test")).out.startswith("a.test is hosted here")
    assert (await cli("domain", "add", "a.test")).code == 6
    assert (await cli("user", "add", "x@a.test", "--password-stdin", text=f"{PASSWORD}\n")).out == "x@a.test added\n"
    made = (await cli("user", "add", "y@a.test", "--generate-password", "--json")).json
    assert len(made["generated_password"]) >= 12
    assert (await cli("user", "add", "z@a.test")).code == 2  # no terminal to ask on
    assert [one["address"] for one in (await cli("user", "list", "--json")).json] == ["x@a.test", "y@a.test"]
    assert (await cli("user", "passwd", "x@a.test", "--password-stdin", text="another long password\n")).code == 0
    assert (await cli("user", "disable", "x@a.test", "--json")).json["enabled"] is False
    assert (await cli("user", "remove", "x@a.test")).code == 0
    assert (await cli("user", "remove", "x@a.test")).code == 3
    assert (await cli("domain", "list", "--json")).json == [{"domain": "a.test", "users": 1, "handlers": 0}]
    shown = (await cli("domain", "show", "a.test", "--json")).json
    assert (shown["rule"]["kind"], [user["address"] for user in shown["users"]]) == ("hosted", ["y@a.test"])
    in_use = await cli("domain", "remove", "a.test")
    assert in_use.code == 6
    assert (await cli("domain", "remove", "a.test", "--force", "--yes")).code == 0


async def test_users_and_volumes_with_etags(plane: Plane, cli, tmp_path: Path):
    await cli("domain", "add", "a.test")
    made = (await cli("user", "add", "x@a.test", "--no-password", "--json")).json
    assert set(made) == {"address", "volume", "enabled", "has_password", "created", "etag"}
    assert (await cli("user", "show", "x@a.test", "--json")).json == made
    text = f"{PASSWORD}\n"
    now = (await cli("user", "passwd", "x@a.test", "--password-stdin", "--etag", made["etag"], "--json", text=text)).json
    assert (now["address"], now["password_set"], now["has_password"], now["etag"] != made["etag"]) == ("x@a.test", True, True, True)
    for command in (("passwd", "--password-stdin"), ("disable",), ("enable",), ("remove",)):
        stale = await cli("user", command[0], "x@a.test", *command[1:], "--etag", made["etag"], "--json", text=text)
        assert (stale.code, json.loads(stale.err)["status"]) == (6, "ABORTED"), command
    off = (await cli("user", "disable", "x@a.test", "--etag", now["etag"], "--json")).json
    on = (await cli("user", "enable", "x@a.test", "--etag", off["etag"], "--json")).json
    shown = (await cli("user", "show", "x@a.test")).out
    assert "enabled   yes\n" in shown
    assert on["etag"] in shown
    assert (await cli("user", "remove", "x@a.test", "--etag", on["etag"])).code == 0
    assert (await cli("user", "show", "x@a.test")).code == 3
    volume = (await cli("volume", "add", "fast", str(tmp_path / "fast"), "--json")).json
    assert set(volume) == {"name", "path", "etag"}
    assert (await cli("volume", "show", "fast", "--json")).json == volume
    assert volume["path"] in (await cli("volume", "show", "fast")).out
    assert (await cli("volume", "remove", "fast", "--etag", "old")).code == 6
    assert (await cli("volume", "remove", "main")).code == 6
    assert (await cli("volume", "remove", "fast", "--etag", volume["etag"], "--json")).json == {"name": "fast", "removed": True}
    assert (await cli("volume", "remove", "fast")).code == 3
    assert (tmp_path / "fast").is_dir()


async def test_rules_and_handlers(plane: Plane, cli):
    options = ("--host", "mx.g.test", "--username", "u", "--password-stdin", "--tls", "verified")
    made = (await cli("rule", "add", "g.test", "--kind", "gateway", *options, "--json", text="hush\n")).json
    assert made["gateway"] == {
        "host": "mx.g.test", "port": 25, "tls": "verified", "implicit_tls": False, "lmtp": False, "username": "u", "has_password": True,
    }  # fmt: skip
    changed = await cli("rule", "set", "g.test", "--port", "2500", "--etag", made["etag"])
    assert changed.out == "g.test: SMTP to mx.g.test:2500, TLS verified, as u\n"
    stale = await cli("rule", "set", "g.test", "--port", "2501", "--etag", made["etag"])
    assert stale.code == 6
    assert (await cli("rule", "set", "g.test")).code == 2
    assert (await cli("rule", "add", "b.test", "--kind", "bogus")).code == 2
    assert (await cli("rule", "show", "nowhere.test")).code == 3
    await cli("domain", "add", "a.test")
    await cli("user", "add", "x@a.test", "--no-password")
    assert (await cli("handler", "add", "a.test", "team", "--kind", "forward", "--target", "x@a.test")).code == 0
    assert [one["pattern"] for one in (await cli("handler", "list", "a.test", "--json")).json] == ["team"]
    assert (await cli("handler", "show", "a.test", "team", "--json")).json["targets"] == ["x@a.test"]
    assert (await cli("handler", "remove", "a.test", "team")).code == 0
    assert [rule["domain"] for rule in (await cli("rule", "list", "--json")).json] == ["a.test", "g.test"]
    assert (await cli("rule", "history", "--json", "--limit", "2")).json[0]["author"].startswith("local:")
    assert (await cli("rule", "remove", "g.test")).out == "g.test removed\n"


async def test_settings_of_rules_and_handlers_are_options(plane: Plane, cli):
    await cli("domain", "add", "a.test")
    await cli("user", "add", "x@a.test", "--no-password")
    hops = ("--next-hop", "b.test:26,priority=20", "--next-hop", "[::1]:2525,priority=10,weight=3")
    times = ("--retry", "1m,5m,1h", "--expire", "5d", "--delay-notice", "never", "--size-limit", "20M")
    made = (await cli("rule", "add", "g.test", "--kind", "gateway", *hops, *times, "--footer-text", "Ltd.", "--json")).json["settings"]
    assert [(hop["host"], hop["port"], hop["weight"]) for hop in made["next_hops"]] == [("::1", 2525, 3), ("b.test", 26, 1)]
    assert made["delivery"]["retry_intervals"] == [60, 300, 3600]
    assert (made["delivery"]["expire"], made["delivery"]["delay_notice"], made["size_limit"]) == (432_000, -1, 20 << 20)
    assert (await cli("rule", "set", "g.test", "--concurrency", "3")).code == 0
    shown = (await cli("rule", "show", "g.test")).out
    assert "delivery.concurrency" in shown
    assert "60, 300, 3600" in shown
    assert (await cli("rule", "set", "g.test", "--expire", "soon")).code == 2
    members = ("--target", "x@a.test", "--target", "y@far.test", "--owner", "x@a.test")
    made = (await cli("handler", "add", "a.test", "team", "--kind", "list", *members, "--verp", "--subject-tag", "[team]", "--json")).json
    assert (made["options"]["list"]["owners"], made["options"]["list"]["verp"]) == (["x@a.test"], True)
    changed = await cli("handler", "set", "a.test", "team", "--may-post", "anyone", "--valid-until", "2030-01-01", "--json")
    assert changed.json["options"]["list"]["subject_tag"] == "[team]"
    assert (changed.json["options"]["list"]["may_post"], changed.json["options"]["valid_until"]) == ("anyone", 1_893_456_000)
    login = ("--via", "smtp", "--host", "h.test", "--username", "u", "--password-stdin")
    made = (await cli("handler", "add", "a.test", "out", "--kind", "transport", *login, "--json", text="hush\n")).json
    assert made["options"]["transport"]["has_password"] is True
    assert "hush" not in json.dumps(made)
    assert (await cli("handler", "add", "a.test", "p", "--kind", "transport", "--host", "h.test")).code == 2
    assert (await cli("rule", "add", "alias.test", "--kind", "alias", "--alias-of", "a.test")).out == "alias.test: stands for a.test\n"
    assert "1 handlers added to g.test" in (await cli("handler", "add-mailboxes", "g.test", "--from", "a.test")).out


async def test_explain_prints_answer_and_trace(plane: Plane, cli):
    await cli("domain", "add", "a.test")
    await cli("user", "add", "x@a.test", "--no-password")
    known = await cli("explain", "x@a.test", "--from", "s@b.test", "--client", "198.51.100.1")
    assert "x@a.test would go into INBOX of x@a.test on volume main" in known.out
    assert "STEP" in known.out
    refused = await cli("explain", "someone@elsewhere.test")
    assert refused.code == 0
    assert "would be refused: 554 5.7.1" in refused.out
    answer = (await cli("explain", "someone@elsewhere.test", "--trusted", "--json")).json
    assert (answer["trusted"], answer["reply"], answer["routes"][0]["kind"]) == (True, None, "smtp")
    assert {"step", "detail"} == set(answer["trace"][0])
    assert (await cli("explain", "x@a.test", "--client", "not-an-ip")).code == 2


async def test_send_writes_a_message_or_takes_one_as_it_is(plane: Plane, cli, tmp_path: Path):
    composed = await cli("send", "--from", "a@b.test", "--to", "x@y.test", "--subject", "Grüße", "--body", "Hällo", "--json")
    assert composed.code == 0, composed.err
    bodies = [body for worker in plane.workers for body in worker.queue.bodies.values()]
    assert b"Subject: =?utf-8?" in bodies[0]
    assert b"\r\nMessage-ID: <" in bodies[0]
    (tmp_path / "raw.eml").write_bytes(b"Subject: raw\r\n\r\nas it is\r\n")
    sent = await cli("send", "--from", "<>", "--to", "x@y.test", str(tmp_path / "raw.eml"))
    assert sent.out.startswith("queued as 0193")
    assert (await cli("send", "--from", "a@b.test", "--to", "x@y.test", "-", text="Subject: in\n\nx\n")).code == 0
    assert (await cli("send", "--from", "a@b.test", "--to", "x@y.test", text="only text\n")).code == 0
    partly = await cli("send", "--from", "a@b.test", "--to", "x@y.test", "--to", "no@refused.test", "--body", "x")
    assert partly.code == 4
    assert "no@refused.test refused: 550 5.1.1" in partly.err
    assert (await cli("send", "--from", "a@b.test", "--to", "no@refused.test", "--body", "x")).code == 4
    assert (await cli("send", "--from", "a@b.test", "--to", "x@y.test", "--file", "/nonexistent")).code == 1
    assert (await cli("send", "--from", "a@b.test", "--to", "x@y.test", "f", "--subject", "s")).code == 2


async def test_status_volumes_tokens_mailboxes_audit_and_reload(plane: Plane, cli, tmp_path: Path):
    status = (await cli("status", "--json")).json
    assert [one["service"] for one in status["listeners"]] == ["smtp", "imaps"]
    assert status["workers"][0]["state"] == "running"
    assert status["queue"]["messages"] == 0
    text = await cli("status")
    assert "127.0.0.1:2525" in text.out
    assert (await cli("volume", "add", "fast", str(tmp_path / "fast"))).code == 0
    assert [one["name"] for one in (await cli("volume", "list", "--json")).json] == ["fast", "main"]
    token = (await cli("token", "add", "ops", "--role", "operator", "--json")).json
    assert (token["name"], token["role"], len(token["secret"]) > 30) == ("ops", "operator", True)
    assert "secret" not in (await cli("token", "list", "--json")).json[0]
    assert (await cli("token", "revoke", "ops")).code == 0
    assert (await cli("token", "add", "x", "--role", "king")).code == 2
    await cli("domain", "add", "a.test")
    await cli("user", "add", "x@a.test", "--no-password")
    assert (await cli("mailbox", "list", "--json")).json[0]["messages"] == 7
    assert [one["name"] for one in (await cli("mailbox", "folders", "x@a.test", "--json")).json] == ["INBOX", "Sent"]
    assert (await cli("audit", "--json", "--limit", "1")).json[0]["rpc"].endswith("/CreateUser")
    assert "workers" in (await cli("reload")).out
    plane.reload_problem = ValueError("smtp.max_hops: must be a whole number")
    refused = await cli("reload")
    assert refused.code == 4
    assert "smtp.max_hops" in refused.err


async def test_status_shows_each_scanner_of_each_worker(plane: Plane, cli):
    plane.workers[0].scanners = (ScannerState("clam", "clamd", State.OPEN, "", "no connection: Connection refused", 7, 2, 5, 0, 0),)
    plane.workers[1].scanners = (ScannerState("clam", "clamd", State.CLOSED, "ClamAV 1.4.6", "", 9, 3, 0, 1, 0),)
    shown = (await cli("status")).out
    assert re.search(r"clam +0 +out of service +7 +2 +5 +no connection: Connection refused", shown)
    assert re.search(r"clam +1 +in service +9 +3 +0 +ClamAV 1\.4\.6", shown)
    found = (await cli("status", "--json")).json["scanners"]
    assert [(one["worker"], one["state"], one["running"]) for one in found] == [(0, "out_of_service", 0), (1, "in_service", 1)]


async def test_over_tcp_with_token_and_authority(plane: Plane, cli):
    secret = plane.token("viewer")
    over_tcp = ("--server", plane.tcp, "--ca-file", str(plane.authority.ca_file))
    assert (await cli("status", *over_tcp, "--token", secret)).code == 0
    assert (await cli("status", *over_tcp, env={"GATEPOST_TOKEN": secret})).code == 0
    denied = await cli("queue", "hold", "--all", *over_tcp, "--token", secret)
    assert denied.code == 4
    assert "operator" in denied.err
    assert (await cli("status", *over_tcp)).code == 4
    stranger = await cli("status", "--server", plane.tcp, "--token", secret)
    assert stranger.code == 5
    assert "not trusted" in stranger.err


async def test_common_options_are_taken_everywhere(plane: Plane, cli):
    data = str(plane.data)
    from_env = {"GATEPOST_DATA": data}
    elsewhere = {"GATEPOST_DATA": "/nonexistent"}
    first = ("--data", data, "queue", "list", "--json")
    middle = ("queue", "--data", data, "--json", "list")
    last = ("--json", "queue", "list", "--data", data)
    for arguments in (first, middle, last):
        command = (sys.executable, "-c", PROGRAM, *arguments)
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, env=elsewhere)
        out, _ = await process.communicate()
        assert (process.returncode, out) == (0, b"[]\n"), arguments
    command = (sys.executable, "-c", PROGRAM, "status")
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL, env=from_env)
    assert await process.wait() == 0


async def test_no_server_says_how_to_start_one(tmp_path: Path, plane: Plane, cli):
    folder = tmp_path / "nowhere"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, "status", "--data", str(folder), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == 5
    assert out == b""
    assert err.decode() == f"gatepost: no server at {folder}/control.sock: start it with gatepost serve --data {folder}\n"


async def test_a_list_that_is_not_whole_says_so_on_standard_error(plane: Plane, cli):
    here = plane.workers[0].queue.add(1)
    plane.workers[1].queue.add(2)
    await plane.workers[1].stop()
    listed = await cli("queue", "list", "--json")
    assert [one["message_id"] for one in listed.json] == [here]
    assert "worker 1" in listed.err
    assert listed.code == 0


async def test_with_json_an_error_is_json_on_standard_error(plane: Plane, cli):
    ran = await cli("queue", "show", "ffffffff", "--json")
    assert (ran.code, ran.out) == (3, "")
    assert json.loads(ran.err) == {"error": "no message ffffffff", "status": "NOT_FOUND", "exit_code": 3}


@pytest.mark.parametrize("arguments", [("bogus",), ("queue", "bogus"), ("queue", "list", "--bogus"), ("queue", "show")])
async def test_wrong_usage_ends_with_2(plane: Plane, cli, arguments):
    assert (await cli(*arguments)).code == 2


async def test_help_does_not_load_grpc(plane: Plane):
    code = "import sys; from gatepost.cli.main import main; main(['--help']); sys.exit('grpc' in sys.modules)"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.DEVNULL)
    assert await process.wait() == 0


async def test_a_policy_is_checked_applied_listed_shown_and_removed(plane: Plane, cli, tmp_path: Path):
    file = tmp_path / "strict.toml"
    file.write_text('description = "no \\u001b logs"\n[[rules]]\nname = "logs"\naction = "reject"\nextensions = ["log"]\n')
    assert (await cli("policy", "check", str(file))).code == 0
    assert "policy strict: 1 rules" in (await cli("policy", "apply", "strict", str(file))).out
    assert [one["name"] for one in (await cli("policy", "list", "--json")).json] == ["no-attachments", "none", "shipped", "strict"]
    shown = await cli("policy", "show", "strict")
    assert 'extensions = ["log"]' in shown.out
    assert "\x1b" not in (await cli("policy", "list")).out
    assert (await cli("rule", "add", "a.test", "--kind", "hosted", "--policy", "strict")).code == 0
    assert (await cli("rule", "show", "a.test", "--json")).json["policy"] == "strict"
    assert (await cli("policy", "remove", "strict")).code == 6
    assert (await cli("rule", "set", "a.test", "--policy", "")).code == 0
    assert (await cli("policy", "remove", "strict")).code == 0
    file.write_text("[[rules]]\n")
    refused = await cli("policy", "check", str(file))
    assert refused.code == 1
    assert "rule 1: name: Field required" in refused.err
    assert (await cli("policy", "show", "strict")).code == 3


async def test_trust_entries_are_added_listed_in_order_and_removed(plane: Plane, cli):
    assert (await cli("trust", "list")).err.strip() == "no entries: logins and trust.networks decide"
    assert (await cli("trust", "add", "office", "--network", "10.0.0.0/24", "--comment", "the house")).code == 0
    added = await cli("trust", "add", "printer", "--distrust", "--network", "10.0.0.9/32", "--position", "1")
    assert added.out.strip() == "trust entry printer: distrust networks 10.0.0.9/32"
    listed = (await cli("trust", "list", "--json")).json
    assert [(one["name"], one["action"]) for one in listed["entries"]] == [("printer", "distrust"), ("office", "trust")]
    explained = await cli("explain", "x@far.test", "--client", "10.0.0.9", "--offline")
    assert "trust entry 'printer': distrust" in explained.out
    stale = await cli("trust", "remove", "office", "--etag", "f1")
    assert (stale.code, "changed by someone else" in stale.err) == (6, True)
    assert (await cli("trust", "remove", "office", "--etag", listed["etag"])).code == 0
    nobody = await cli("trust", "add", "x")
    assert (nobody.code, "say whom it fits" in nobody.err) == (2, True)


async def test_sender_rules_are_added_listed_and_removed(plane: Plane, cli):
    added = await cli("sender", "add", "users", "--user", "*", "--allow-from", "*@example.test", "--messages-per-hour", "20")
    assert added.out.strip() == "sender rule users: users *: allowed_from *@example.test; messages_per_hour 20"
    refused = await cli("sender", "add", "users", "--user", "*", "--tls", "sometimes", "--host", "smart.test")
    assert (refused.code, "tls: must be one of" in refused.err, "Traceback" in refused.err) == (2, True, False)
    listed = await cli("sender", "list")
    assert "messages_per_hour 20" in listed.out
    assert (await cli("sender", "list", "--json")).json["entries"][0]["allowed_from"] == ["*@example.test"]
    assert (await cli("sender", "remove", "users")).code == 0
    assert (await cli("sender", "list")).err.strip() == "no sender rules"


async def test_stage_policies_are_checked_added_listed_and_removed(plane: Plane, cli):
    wrong = await cli("stage", "check", "--at", "mail", "--when", "sender.domian == 'a.test'")
    assert (wrong.code, "did you mean 'domain'" in wrong.err) == (1, True)
    assert (await cli("stage", "check", "--at", "mail", "--when", "sender.domain == 'a.test'")).code == 0
    added = await cli("stage", "add", "few", "--at", "rcpt", "--when", "!client.trusted", "--do", "limit", "--most", "5", "--by", "sender")
    assert added.out.strip() == "policy few at rcpt: limit 5 in 3600 s by sender when !client.trusted"
    assert "limit 5 in 3600 s by sender" in (await cli("stage", "list")).out
    explained = await cli("explain", "x@far.test", "--client", "203.0.113.1", "--offline")
    assert "rcpt: few is met: limit" in explained.out
    assert (await cli("stage", "remove", "few")).code == 0
    assert (await cli("stage", "list")).err.strip() == "no policies"
