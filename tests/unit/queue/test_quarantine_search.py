"""Looking through the quarantine: nothing that has the text is passed over, and what is there for each recipient is counted."""

from dataclasses import replace
from pathlib import Path

import pytest

from gatepost.message.verdict import QUARANTINE, Action, Answer, Finding, Verdict
from gatepost.native import K_NOTE
from gatepost.queue import quarantine_search
from gatepost.queue.quarantine import Quarantine
from gatepost.queue.quarantine_search import TextHint
from gatepost.queue.quarantine_views import QuarantineFilter, note_of, words_of
from gatepost.queue.withheld import split
from support.quarantine import INFECTED, fill
from support.queue_lab import RULES, QueueLab

HARD = Verdict(
    Action.QUARANTINE,
    "Haus-Regel Äpfel",
    'a "rule"\twith \\ signs',
    "Größer als 10 \u212aelvin",
    (Finding("Rechnung\u202efdp.exe / İnner.scr", "executable", Action.QUARANTINE),),
    (Answer("rspamd", "suspicious", "GTUBE", 1_000_000.0, "add header"), Answer("clamd", "clean")),
    1_700_000_000.0,
)


async def opened(lab: QueueLab) -> Quarantine:
    await lab.spool.whole()
    return Quarantine(lab.spool, lab.actions, lambda: RULES, lambda: lab.settings)


@pytest.mark.parametrize("verdict", [INFECTED, HARD])
async def test_whatever_stands_in_a_verdict_is_found_in_any_case(tmp_path: Path, verdict: Verdict) -> None:
    fill(tmp_path / "p0", 1, ["alice@here.test"], verdict=verdict)
    async with QueueLab(tmp_path) as lab:
        quarantine = await opened(lab)
        for line in words_of(verdict).splitlines():
            for start in range(0, len(line), 3):
                for text in (line[start : start + 7], line[start:].upper()):
                    ids = await quarantine.select(QuarantineFilter(text=text))
                    assert len(ids) == 16 or text.lower() not in words_of(verdict).lower(), text
        assert await quarantine.select(QuarantineFilter(text="nowhere in it")) == b""


async def test_a_later_verdict_is_searched_in_place_of_the_first(tmp_path: Path) -> None:
    (one, other) = (bytes.fromhex(text) for text in fill(tmp_path / "p0", 2, ["alice@here.test"], verdict=INFECTED))
    async with QueueLab(tmp_path) as lab:
        quarantine = await opened(lab)
        later = replace(INFECTED, answers=(Answer("clamd", "infected", "Later-Name"),))
        await lab.spool.change([(one, -1, K_NOTE, 0, note_of(later, now=1, by="test"))])
        assert await quarantine.select(QuarantineFilter(text="later-name")) == one
        assert await quarantine.select(QuarantineFilter(text="eicar")) == other


async def test_what_cannot_have_the_text_is_not_decoded(tmp_path: Path) -> None:
    fill(tmp_path / "p0", 1, ["alice@here.test"], verdict=INFECTED)
    async with QueueLab(tmp_path) as lab:
        (row,), _ = (await opened(lab))._spool.page(QuarantineFilter().parts[0].native(0), None, 10)
        may = {text: TextHint(lab.spool, text).may_have(row) for text in ("EICAR", "policy default", "sobig", "rule sobig", "42", "ü")}
        assert may == {"EICAR": True, "policy default": True, "sobig": False, "rule sobig": False, "42": True, "ü": True}


async def test_each_recipient_is_counted_with_its_newest_messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quarantine_search, "PAGE", 2)
    both = fill(tmp_path / "p0", 3, ["alice@here.test", "bob@here.test"])
    alone = fill(tmp_path / "p0", 2, ["alice@here.test"])
    fill(tmp_path / "p0", 1, ["carol@here.test"], destination="scan-wait")
    async with QueueLab(tmp_path) as lab:
        quarantine = await opened(lab)
        found = (await quarantine.shares(0, 1 << 62, 3)).by_recipient
        assert {address: (share.count, [one.hex() for one in share.newest]) for address, share in found.items()} == {
            "alice@here.test": (5, [both[2], *alone]),
            "bob@here.test": (3, both),
        }
        times = [(await quarantine.get(bytes.fromhex(one))).message.received_at for one in both]
        some = (await quarantine.shares(times[1], times[2], 3)).by_recipient["bob@here.test"]
        assert [one.hex() for one in some.newest] == [text for text, at in zip(both, times, strict=True) if times[1] <= at < times[2]]
        monkeypatch.setattr(quarantine_search, "MAX_IDS", 4)
        few = (await quarantine.shares(0, 1 << 62, 3)).by_recipient
        assert sum(len(share.newest) for share in few.values()) == 4, "ids are bounded, numbers are not"
        assert {address: share.count for address, share in few.items()} == {"alice@here.test": 5, "bob@here.test": 3}
        assert len(split(await quarantine.select(QuarantineFilter()))) == 6, QUARANTINE
