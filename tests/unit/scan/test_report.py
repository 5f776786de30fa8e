"""What the native inspection finds in each container, through the Python values."""

import bz2
import gzip
import hashlib
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable

import pytest

from gatepost.scan.report import Found, Limits, Report, inspect
from support import archives
from support.archives import PROGRAM

FILES = {"readme.txt": b"read me\n", "setup.bin": PROGRAM}


def zip_of(files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED, *, zip64: bool = False) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, content in files.items():
            with archive.open(name, "w", force_zip64=zip64) as entry:
                entry.write(content)
    return out.getvalue()


def tar_of(files: dict[str, bytes], mode: str = "w", layout: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode, format=layout) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


CONTAINERS: dict[str, Callable[[], bytes]] = {
    "stored.zip": lambda: zip_of(FILES, zipfile.ZIP_STORED),
    "deflated.zip": lambda: zip_of(FILES),
    "bzip2.zip": lambda: zip_of(FILES, zipfile.ZIP_BZIP2),
    "lzma.zip": lambda: zip_of(FILES, zipfile.ZIP_LZMA),
    "zip64.zip": lambda: zip_of(FILES, zip64=True),
    "sfx.zip": lambda: b"#!/bin/sh\nexit\n" + zip_of(FILES),
    "a.tar": lambda: tar_of(FILES),
    "gnu.tar": lambda: tar_of(FILES, layout=tarfile.GNU_FORMAT),
    "a.tar.gz": lambda: tar_of(FILES, "w:gz"),
    "a.tar.bz2": lambda: tar_of(FILES, "w:bz2"),
    "a.tar.xz": lambda: tar_of(FILES, "w:xz"),
    "a.tar.lzma": lambda: lzma.compress(tar_of(FILES), lzma.FORMAT_ALONE),
    "a.tar.zst": lambda: archives.zstd(tar_of(FILES)),
    "lzma.7z": lambda: archives.seven_zip(FILES),
    "lzma2.7z": lambda: archives.seven_zip(FILES, method="lzma2"),
    "copy.7z": lambda: archives.seven_zip(FILES, method="copy"),
    "mszip.cab": lambda: archives.cabinet(FILES),
    "stored.cab": lambda: archives.cabinet(FILES, compressed=False),
    "lzx.cab": lambda: archives.cabinet_lzx(FILES),
    "lzx-stored.cab": lambda: archives.cabinet_lzx(FILES, huffman=False),
    "a.rar": lambda: archives.rar5(FILES),
    "a.iso": lambda: archives.iso(FILES),
    "winmail.dat": lambda: archives.tnef(FILES),
}


def entry(report: Report, name: str) -> Found:
    found = [one for one in report.entries if one.name.lower() == name]
    assert len(found) == 1, [one.path for one in report.entries]
    return found[0]


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_program_in_a_container_is_found_with_its_size(name: str) -> None:
    report = inspect(CONTAINERS[name](), name)
    program = entry(report, "setup.bin")
    assert (program.kind, program.size, program.defects) == ("pe", len(PROGRAM), ())
    assert "executable" in program.flags
    assert entry(report, "readme.txt").kind == "text"
    assert report.verdict == "complete"


def test_long_names_in_tar_are_whole_in_each_layout() -> None:
    name = "/".join(["directory"] * 30) + "/file.txt"
    for layout in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        assert inspect(tar_of({name: b"x"}, layout=layout)).entries[1].name == name


def test_streams_behind_each_other_are_read_to_the_last() -> None:
    text = b"first\n" + b"second\n"
    for whole in (
        gzip.compress(b"first\n") + gzip.compress(b"second\n"),
        bz2.compress(b"first\n") + bz2.compress(b"second\n"),
        lzma.compress(b"first\n") + lzma.compress(b"second\n"),
    ):
        assert inspect(whole).entries[1].size == len(text)


def test_blocks_of_a_cabinet_look_back_into_the_one_before() -> None:
    text = b"".join(b"line %d\n" % number for number in range(9_000))
    found = inspect(archives.cabinet({"a.txt": text}), "a.cab").entries[1]
    assert (found.size, found.defects) == (len(text), ())


def test_encryption_is_told_where_names_can_be_read() -> None:
    for whole in (archives.seven_zip(FILES, method="aes"), archives.rar5(FILES, encrypted=True)):
        report = inspect(whole)
        assert "encrypted" in entry(report, "setup.bin").flags
        assert report.verdict == "partial"


@pytest.mark.parametrize(
    ("source", "autos"),
    [
        ("Sub AutoOpen()\r\nEnd Sub\r\n", {"macro:autoopen"}),
        ('Private Sub Document_Open()\r\nShell "calc"\r\nEnd Sub\r\n', {"macro:document_open"}),
        ("Sub Workbook_Open()\r\nEnd Sub\r\nSub Auto_Close()\r\nEnd Sub\r\n", {"macro:workbook_open", "macro:auto_close"}),
        ("Sub Helper()\r\nEnd Sub\r\n", set()),
    ],
)
def test_macros_of_an_old_document_are_listed_with_what_runs_by_itself(source: str, autos: set[str]) -> None:
    document = inspect(archives.word_with_macro(source), "a.doc").entries[0]
    assert document.kind == "doc"
    assert "macro" in document.flags
    assert ("autorun" in document.flags) == bool(autos)
    assert autos <= set(document.signs)


def test_macros_of_a_new_document_are_its_own() -> None:
    project = archives.compound([("VBA/ThisDocument", archives.vba_module("Sub Document_Open()\r\nEnd Sub\r\n"))])
    parts = {"[Content_Types].xml": b"<?xml version='1.0'?>", "word/document.xml": b"<?xml version='1.0'?>", "word/vbaProject.bin": project}
    document = inspect(zip_of(parts), "a.docx").entries[0]
    assert document.kind == "docx"
    assert {"macro", "autorun"} <= document.flags
    assert "macro:document_open" in document.signs


def test_macros_of_excel_4_are_told_in_old_and_new_workbooks() -> None:
    old = inspect(archives.excel4_workbook(auto_open=True), "a.xls").entries[0]
    assert {"macro", "autorun"} <= set(old.flags)
    assert {"macro:excel4-sheet", "macro:auto_open"} <= set(old.signs)
    idle = inspect(archives.excel4_workbook(auto_open=False), "a.xls").entries[0]
    assert "macro" in idle.flags and "autorun" not in idle.flags
    new = inspect(
        zip_of({"[Content_Types].xml": b"<?xml?>", "xl/workbook.xml": b"<?xml?>", "xl/macrosheets/sheet1.xml": b"<?xml?>"}), "a.xlsm"
    )
    assert "macro" in new.entries[0].flags


def test_both_trees_of_a_joliet_image_are_looked_at() -> None:
    image = archives.iso_joliet(
        {"Rechnung \u202efdp.exe": archives.PROGRAM, "Grüße.txt": b"hi"}, {"README.TXT": b"hello", "B.COM": archives.PROGRAM}
    )
    found = {entry.name: entry for entry in inspect(image, "a.iso").entries[1:]}
    assert set(found) == {"Rechnung \u202efdp.exe", "Grüße.txt", "README.TXT", "B.COM"}
    assert {"executable", "deceptive-name"} <= set(found["Rechnung \u202efdp.exe"].flags)
    assert "executable" in found["B.COM"].flags


def test_a_file_packed_into_a_document_is_opened() -> None:
    package = b"\x02\0run.exe\0C:\\run.exe\0\0\0\x03\0\x08\0\0\0C:\\run\0\0"
    package += len(PROGRAM).to_bytes(4, "little") + PROGRAM
    native = len(package).to_bytes(4, "little") + package
    report = inspect(archives.compound([("WordDocument", b""), ("ObjectPool/_1/\x01Ole10Native", native)]), "a.doc")
    assert entry(report, "run.exe").kind == "pe"
    assert "embeds" in report.entries[0].flags


def test_installers_and_encrypted_documents_are_told_from_others() -> None:
    installer = bytes([0x84, 0x10, 0x0C, 0, 0, 0, 0, 0, 0xC0, 0, 0, 0, 0, 0, 0, 0x46])
    assert inspect(archives.compound([("x", b"y")], root_class=installer)).entries[0].family == "executable"
    locked = inspect(archives.compound([("EncryptedPackage", b"?"), ("EncryptionInfo", b"?")]), "a.xlsx")
    assert "encrypted" in locked.entries[0].flags
    assert locked.verdict == "partial"


def test_digests_are_of_the_whole_content_or_missing() -> None:
    report = inspect(zip_of(FILES))
    assert entry(report, "readme.txt").sha256 == hashlib.sha256(FILES["readme.txt"]).hexdigest()
    small = inspect(zip_of({"a.txt": b"x" * 5_000}), limits=Limits(memory_bytes=1_000))
    assert small.entries[1].sha256 == ""
    assert small.entries[1].size == 5_000
    assert small.entries[1].defects == ("too-large",)
    assert small.verdict == "partial"


def test_the_test_virus_is_found_by_its_digest_inside_a_nest() -> None:
    # Put together here, so that no file of ours is taken for it.
    eicar = b"X5O!P%@AP[4\\PZX54(P^)7CC)7}$" + b"EICAR-STANDARD-" + b"ANTIVIRUS-TEST-FILE!$H+H*"
    report = inspect(zip_of({"inner.7z": archives.seven_zip({"eicar.com": eicar})}))
    assert entry(report, "eicar.com").sha256 == "275a021bbfb6489e54d471899f7db9d1663fc695ec2fe2a2c4538aabf651fd0f"


def test_a_bomb_ends_with_the_limit_it_broke() -> None:
    zeros = gzip.compress(bytes(40 << 20))
    report = inspect(zeros, "zeros.gz", limits=Limits(milliseconds=20_000))
    assert (report.verdict, report.stop) == ("bomb", "ratio")
    assert report.produced < 20 << 20


def test_the_path_of_what_a_message_holds_begins_with_the_name_of_the_attachment() -> None:
    message = b"Content-Type: application/octet-stream; name=note.txt\r\n\r\nnothing\r\n"
    assert [entry.path for entry in inspect(message, "", "message/rfc822").entries] == ["(no name)", "note.txt"]
