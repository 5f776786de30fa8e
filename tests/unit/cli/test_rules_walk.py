"""docs/rules.md: the walk from an empty server is carried out by the CLI, command by command, and leads where it says."""

import shlex
from pathlib import Path

from support.control import Plane

PAGE = (Path(__file__).parents[3] / "docs" / "rules.md").read_text()


async def test_the_walk_from_an_empty_server(plane: Plane, cli):
    block = PAGE.split("## From an empty server")[1].split("```console\n")[1].split("```")[0]
    told: dict[str, str] = {}
    for line in block.splitlines():
        prompt, program, *words = shlex.split(line)
        assert (prompt, program) == ("$", "gatepost")
        answer = await cli(*words, text="hush\n")
        assert answer.code == 0, (line, answer)
        if words[0] == "explain":
            told[words[1]] = answer.out
    assert "into INBOX of alice@example.org" in told["alice@example.com"]
    assert "into INBOX of bob@example.net" in told["whoever@example.net"]
    assert "team@example.org has 2 members" in told["team@example.org"]
    assert "552 5.3.4" in told["fax@example.org"]
    assert "10.0.0.5" in told["x@partner.test"]
    assert "smtp.provider.example" in told["x@elsewhere.test"]
