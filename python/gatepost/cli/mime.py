"""`gatepost mime FILE`: parts, defects and readings of a message in a file. Needs no server."""

import asyncio
import hashlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gatepost.cli.output import clean, human_size, print_json
from gatepost.cli.session import FAILED, NOT_FOUND, CommandError, Session

if TYPE_CHECKING:
    from gatepost.mime import Leaf, Message, Part, Shown

LARGEST = 256 << 20
"""Octets of a file that are taken; the servers take less."""


async def mime(
    session: Session, file: Annotated[str, typer.Argument(metavar="FILE", help="A message as it came over the wire; - is standard input")]
) -> None:
    """Show the parts of a message, its defects, and every way in which readers may see it."""
    from gatepost.mime import parse_in_thread

    data = await asyncio.to_thread(_read, file)
    message = await parse_in_thread(data)
    if session.json:
        print_json(await asyncio.to_thread(_as_json, message))
        return
    await asyncio.to_thread(_print, message)


def _read(file: str) -> bytes:
    try:
        if file == "-":
            data = sys.stdin.buffer.read(LARGEST + 1)
        else:
            with Path(file).open("rb") as opened:
                data = opened.read(LARGEST + 1)
    except FileNotFoundError:
        raise CommandError(f"{file}: no such file", NOT_FOUND) from None
    except OSError as error:
        raise CommandError(f"{file}: {error.strerror or error}", FAILED) from None
    if len(data) > LARGEST:
        raise CommandError(f"{file}: more than {human_size(LARGEST)}", FAILED)
    return data


def _print(message: "Message") -> None:
    children: dict[int | None, list[Part]] = {}
    for part in message.parts:
        children.setdefault(part.parent, []).append(part)
    _tree(children, None, 0)
    print()
    for defect in message.defects:
        print(f"defect   {defect.kind} at {defect.offset}")
    if not message.defects:
        print("no defects")
    print(f"verdict  {verdict(message)}")
    for reading in message.readings:
        print(f"\nreading {reading.id}: {reading.label or 'the baseline, which IMAP shows'}")
        for shown in reading.shown:
            leaf, digest, octets = _content(message, shown)
            name = f" {clean(shown.name)!r}" if shown.name is not None else ""
            print(f"  {clean(leaf.types[0])}{name}, {octets} octets, sha256 {digest[:16]}")


def verdict(message: "Message") -> str:
    """In a word: clear, ambiguous, incomplete."""
    words = [word for word, holds in (("ambiguous", message.ambiguous), ("incomplete", message.incomplete)) if holds]
    return ", ".join(words) or "clear"


def _tree(children: "dict[int | None, list[Part]]", parent: int | None, depth: int) -> None:
    # The index nests at most 60 deep, so does this.
    for part in children.get(parent, []):
        lines = f"{part.lines} lines" if part.lines != 1 else "1 line"
        places = f"header {part.header}, body {part.body}, end {part.end}"
        print(f"{'  ' * depth}{clean(part.content_type)} ({clean(part.encoding)}): {places}, {lines}")
        _tree(children, part.number, depth + 1)


def _content(message: "Message", shown: "Shown") -> "tuple[Leaf, str, int]":
    octets = message.decode(shown.leaf, shown.decoding)
    return message.leaves[shown.leaf], hashlib.sha256(octets).hexdigest(), len(octets)


def _as_json(message: "Message") -> dict[str, Any]:
    return {
        "size": len(message.data),
        "verdict": verdict(message),
        "ambiguous": message.ambiguous,
        "incomplete": message.incomplete,
        "parts": message.parts,
        "defects": message.defects,
        "readings": [
            {"id": reading.id, "label": reading.label, "leaves": [_leaf_json(message, shown) for shown in reading.shown]}
            for reading in message.readings
        ],
        "preview": message.preview(),
    }


def _leaf_json(message: "Message", shown: "Shown") -> dict[str, Any]:
    leaf, digest, octets = _content(message, shown)
    return {
        "name": shown.name,
        "names": [name.text for name in leaf.names],
        "types": leaf.types,
        "disposition": leaf.disposition,
        "decoding": leaf.decodings[shown.decoding],
        "header": leaf.header,
        "body": leaf.body,
        "end": leaf.end,
        "inside": leaf.inside,
        "octets": octets,
        "sha256": digest,
    }
