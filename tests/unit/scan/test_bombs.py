"""Files that unpack to themselves, and to very much: the inspection ends by its budget and says so."""

import bz2
import gzip
import io
import lzma
import zipfile
from collections.abc import Callable

import pytest

from gatepost.scan.report import inspect
from support import archives, quines

MB = 1 << 20


def test_the_quines_are_what_they_unpack_to() -> None:
    zipped = quines.zip_quine()
    assert gzip.decompress(quines.gzip_quine()) == quines.gzip_quine()
    with zipfile.ZipFile(io.BytesIO(zipped)) as opened:
        assert opened.read(quines.ZIP_NAME.decode()) == zipped


@pytest.mark.parametrize("maker", [quines.zip_quine, quines.gzip_quine])
def test_an_archive_that_holds_itself_is_a_bomb_wherever_it_lies(maker: Callable[[], bytes]) -> None:
    quine = maker()
    inside = io.BytesIO()
    with zipfile.ZipFile(inside, "w") as outer:
        outer.writestr("inner", quine)
    for data in (quine, inside.getvalue(), gzip.compress(quine)):
        report = inspect(data, "attachment", "")
        assert (report.verdict, report.stop) == ("bomb", "depth")


def alone(megabytes: int) -> bytes:
    packer = lzma.LZMACompressor(lzma.FORMAT_ALONE, preset=0)
    return b"".join(packer.compress(bytes(MB)) for _ in range(megabytes)) + packer.flush()


def lzip() -> bytes:
    packed = alone(64)
    size = int.from_bytes(packed[1:5], "little").bit_length() - 1
    return b"LZIP\x01" + bytes([size]) + packed[13:] + bytes(20)


@pytest.mark.parametrize(
    "maker",
    [
        lambda: archives.seven_zip({"zeros": bytes(64 * MB)}),
        lambda: archives.seven_zip({"zeros": bytes(64 * MB)}, method="lzma2"),
        lambda: archives.cabinet({"zeros": bytes(48 * MB)}),
        lambda: bz2.compress(bytes(8 * MB)) * 16,
        lambda: lzma.compress(bytes(64 * MB), preset=0),
        lambda: alone(64),
        lzip,
    ],
    ids=["7z", "7z-lzma2", "cab", "bzip2", "xz", "lzma", "lzip"],
)
def test_much_out_of_little_is_a_bomb_whatever_packed_it_and_whatever_its_name(maker: Callable[[], bytes]) -> None:
    report = inspect(maker(), "attachment", "")
    assert (report.verdict, report.stop) == ("bomb", "ratio")
