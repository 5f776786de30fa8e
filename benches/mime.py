"""Reading MIME beside Python's `email` and, when it is installed, fast-mail-parser: one core, one run, processor time.

    .venv/bin/python benches/mime.py [--quick] [--json]

Like is compared with like. "gatepost" is structure with offsets, defects and readings, nothing decoded; beside it stand fast-mail-parser's
"lazy" and "metadata" modes, which decode no body and tell no offsets, and `email` with its older policy, which decodes nothing.
"decoded" is all of that, and texts as `str` and every other part as `bytes`: what fast-mail-parser's default mode gives, and what
`email` gives with `policy.default` when every part is walked and its content taken.
Prints a table and the ratios; fails on nothing but errors. Compare ratios of one run.
"""

import argparse
import base64
import email
import importlib
import json
import os
import time
from collections.abc import Callable
from email import policy
from functools import partial
from typing import Any

from gatepost.mime import decode, parse

SIZES = {"3 KB": 3 << 10, "70 KB": 70 << 10, "1.4 MB": 1_400 << 10}


def letter(octets: int) -> bytes:
    """A text and an attachment in base64, as programs write them."""
    received = [
        f"Received: from a{n}.example (a [192.0.2.{n}])\r\n\tby b.example with ESMTP id {n}; Mon, 1 Jan 2024 00:00:00 +0000"
        for n in range(5)
    ]
    head = [
        *received,
        "From: A <a@x.test>", "To: B <b@x.test>", "Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=", "Date: Mon, 1 Jan 2024 00:00:00 +0000",
        "Message-ID: <1@x>", "MIME-Version: 1.0", 'Content-Type: multipart/mixed; boundary="b1"', "",
        "--b1", "Content-Type: text/plain; charset=utf-8", "Content-Transfer-Encoding: quoted-printable", "",
        *["Lorem ipsum dolor sit amet consetetur sadipscing elitr=20sed"] * 14,
        "--b1", 'Content-Type: application/pdf; name="a.pdf"', "Content-Transfer-Encoding: base64",
        'Content-Disposition: attachment; filename="a.pdf"', "", "",
    ]  # fmt: skip
    start = "\r\n".join(head).encode()
    lines = base64.encodebytes(bytes(range(256)) * (max(octets - len(start), 0) * 3 // 4 // 256 + 1)).replace(b"\n", b"\r\n")
    return start + lines + b"--b1--\r\n"


def ours(data: bytes) -> object:
    """Structure, offsets, defects, readings; nothing decoded."""
    message = parse(data)
    return message.native.defects()


def ours_decoded(data: bytes) -> object:
    """The same, texts as characters, and every other leaf as octets."""
    message = parse(data)
    return message.native.defects(), message.contents(1 << 30)


def email_decoded(data: bytes) -> object:
    """What a user of `email` writes for the fields and contents of a message."""
    message = email.message_from_bytes(data, policy=policy.default)
    parts = [part for part in message.walk() if not part.is_multipart()]
    return message.items(), [part.get_content() for part in parts]


def spent(call: Callable[[bytes], object], data: bytes, seconds: float) -> float:
    """Microseconds of processor time a call, the best of five stretches."""
    call(data)
    best = float("inf")
    for _ in range(5):
        count, started = 0, time.process_time()
        while (passed := time.process_time() - started) < seconds / 5:
            for _ in range(5):
                call(data)
            count += 5
        best = min(best, passed / count)
    return best * 1e6


def readers() -> dict[str, Callable[[bytes], object]]:
    """What is compared, by name."""
    found: dict[str, Callable[[bytes], object]] = {
        "gatepost": ours,
        "gatepost, decoded": ours_decoded,
        "email": email.message_from_bytes,
        "email, decoded": email_decoded,
    }
    try:
        fast: Any = importlib.import_module("fast_mail_parser")
    except ImportError:
        return found
    modes = {f"fast-mail-parser, {mode}": partial(fast.parse_email, mode=mode) for mode in ("lazy", "metadata")}
    return {**found, **modes, "fast-mail-parser, decoded": fast.parse_email}


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("--quick", action="store_true", help="a second in all")
    options.add_argument("--json", action="store_true", help="print JSON")
    chosen = options.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    seconds = 0.1 if chosen.quick else 1.0
    rows = {size: {name: spent(call, letter(octets), seconds) for name, call in readers().items()} for size, octets in SIZES.items()}
    text = base64.encodebytes(bytes(range(256)) * 4096).replace(b"\n", b"\r\n")
    rate = len(text) / spent(lambda data: decode("base64", data), text, seconds) * 1e6 / 1e9
    if chosen.json:
        print(json.dumps({"microseconds": rows, "base64_gb_per_s": rate}))
        return
    for size, row in rows.items():
        for name, value in row.items():
            like = row["gatepost, decoded" if name.endswith("decoded") else "gatepost"]
            print(f"{size:>7}  {name:<26} {value:>10.1f} us  {value / like:>7.2f} x")
    print(f"base64 in lines: {rate:.2f} GB/s of encoded octets")


if __name__ == "__main__":
    main()
