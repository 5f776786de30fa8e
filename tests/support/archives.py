"""Makes containers that the standard library cannot write: 7z, cabinet, RAR, ISO, OLE with VBA, TNEF, zstd. All harmless and tiny.

Called by tests/unit/scan. Each function gives the octets of a whole file. Layouts follow the public format descriptions, with no more
than a reader needs.
"""

import lzma
import struct
import zlib
from collections.abc import Mapping, Sequence

PROGRAM = b"MZ" + bytes(58) + struct.pack("<I", 64) + b"PE\0\0" + bytes(60)
"""The head of a Windows program, and nothing behind it."""


def seven_zip(files: Mapping[str, bytes], *, method: str = "lzma") -> bytes:
    """A solid 7z archive with a plain header. `method`: lzma, lzma2, copy or aes (marked as encrypted only)."""
    solid = b"".join(files.values())
    lzma1 = {"id": lzma.FILTER_LZMA1, "dict_size": 1 << 16}
    lzma2 = {"id": lzma.FILTER_LZMA2, "dict_size": 1 << 16}
    packed, coder = {
        "lzma": (lzma.compress(solid, lzma.FORMAT_RAW, filters=[lzma1]), b"\x23\x03\x01\x01\x05\x5d" + struct.pack("<I", 1 << 16)),
        "lzma2": (lzma.compress(solid, lzma.FORMAT_RAW, filters=[lzma2]), b"\x21\x21\x01\x08"),
        "copy": (solid, b"\x01\x00"),
        "aes": (solid, b"\x24\x06\xf1\x07\x01\x01\x00"),
    }[method]
    sizes = [len(content) for content in files.values()]
    streams = b"\x06\x00\x01\x09" + _number(len(packed)) + b"\x00"
    streams += b"\x07\x0b\x01\x00\x01" + coder + b"\x0c" + _number(len(solid)) + b"\x00"
    streams += b"\x08\x0d" + _number(len(sizes)) + b"\x09" + b"".join(_number(size) for size in sizes[:-1]) + b"\x00"
    names = b"\0" + b"".join(name.encode("utf-16-le") + b"\0\0" for name in files)
    header = b"\x01\x04" + streams + b"\x00\x05" + _number(len(files)) + b"\x11" + _number(len(names)) + names + b"\x00\x00"
    start = struct.pack("<QQI", len(packed), len(header), zlib.crc32(header))
    return b"7z\xbc\xaf\x27\x1c\x00\x04" + struct.pack("<I", zlib.crc32(start)) + start + packed + header


def _number(value: int) -> bytes:
    """A number as 7z writes it: the set bits at the top of the first octet tell how many octets follow, lowest first."""
    more = next(count for count in range(9) if count == 8 or value >> (7 * count + 7) == 0)
    first = (0xFF00 >> more & 0xFF) | (value >> 8 * more if more < 7 else 0)
    return bytes([first]) + (value & (1 << 8 * more) - 1).to_bytes(more, "little")


def cabinet(files: Mapping[str, bytes], *, compressed: bool = True) -> bytes:
    """A cabinet of one folder, MSZIP or stored."""
    whole = b"".join(files.values())
    blocks, window = b"", b""
    for at in range(0, len(whole), 32_768):
        piece = whole[at : at + 32_768]
        body = piece
        if compressed:
            deflater = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=window) if window else zlib.compressobj(9, zlib.DEFLATED, -15)
            body = b"CK" + deflater.compress(piece) + deflater.flush()
            window = piece
        blocks += struct.pack("<IHH", 0, len(body), len(piece)) + body
    entries, offset = b"", 0
    for name, content in files.items():
        entries += struct.pack("<IIHHHH", len(content), offset, 0, 0, 0, 0x20) + name.encode() + b"\0"
        offset += len(content)
    data_at = 36 + 8 + len(entries)
    folder = struct.pack("<IHH", data_at, -(-len(whole) // 32_768), 1 if compressed else 0)
    head = b"MSCF\0\0\0\0" + struct.pack("<IIIIBBHHHHH", data_at + len(blocks), 0, 44, 0, 3, 1, 1, len(files), 0, 0, 0)
    return head + folder + entries + blocks


def cabinet_lzx(files: Mapping[str, bytes], *, huffman: bool = True) -> bytes:
    """A cabinet of one LZX folder (MS-PATCH 2): one verbatim block of literals, or an uncompressed block. At most 32 KiB in all."""
    whole = b"".join(files.values())
    bits = "0"  # no translation of x86 calls
    if huffman:
        bits += f"{1:03b}{len(whole):024b}"
        # Literals have 8 bits each, so the code of an octet is the octet; matches and lengths do not occur. Lengths of codes are written
        # with a code of their own: one bit for "8 more than nothing" (9), or for a run of zeros (18).
        bits += _lzx_lengths({9, 18}) + "0" * 256 + _lzx_lengths({0, 18}) + _lzx_zeros(240) + _lzx_lengths({0, 18}) + _lzx_zeros(249)
        data = _lzx_words(bits + "".join(f"{octet:08b}" for octet in whole))
    else:
        data = _lzx_words(bits + f"{3:03b}{len(whole):024b}") + struct.pack("<III", 1, 1, 1) + whole
    stored = bytearray(cabinet(files, compressed=False))
    head = stored[: len(stored) - len(whole) - 8]
    struct.pack_into("<H", head, 42, 3 | 15 << 8)  # LZX with a window of 32 KiB
    made = bytes(head) + struct.pack("<IHH", 0, len(data), len(whole)) + data
    return made[:8] + struct.pack("<I", len(made)) + made[12:]


def _lzx_lengths(used: set[int]) -> str:
    return "".join(f"{int(symbol in used):04b}" for symbol in range(20))


def _lzx_zeros(count: int) -> str:
    runs = [51] * (count // 51) + [count % 51]
    return "".join(f"1{run - 20:05b}" for run in runs)


def _lzx_words(bits: str) -> bytes:
    bits = bits.ljust(-(-len(bits) // 16) * 16, "0")
    return b"".join(struct.pack("<H", int(bits[at : at + 16], 2)) for at in range(0, len(bits), 16))


def rar5(files: Mapping[str, bytes], *, encrypted: bool = False) -> bytes:
    """A RAR 5 archive of stored files."""
    out = b"Rar!\x1a\x07\x01\x00" + _rar_block(b"\x01\x00\x00")
    for name, content in files.items():
        extra = b"\x02\x01\x00" if encrypted else b""
        fields = bytes([2, 3 if extra else 2]) + (_vint(len(extra)) if extra else b"") + _vint(len(content))
        fields += b"\x00" + _vint(len(content)) + b"\x00\x00\x01" + _vint(len(name)) + name.encode()
        out += _rar_block(fields + extra) + content
    return out + _rar_block(b"\x05\x00\x00")


def _rar_block(body: bytes) -> bytes:
    sized = _vint(len(body)) + body
    return struct.pack("<I", zlib.crc32(sized)) + sized


def _vint(value: int) -> bytes:
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def iso(files: Mapping[str, bytes]) -> bytes:
    """An ISO 9660 image with one directory."""
    sectors: list[bytes] = []
    records = _iso_record(b"\0", 18, 2048, 2) + _iso_record(b"\1", 18, 2048, 2)
    for name, content in files.items():
        place = 19 + len(sectors)
        sectors += [content[at : at + 2048].ljust(2048, b"\0") for at in range(0, max(len(content), 1), 2048)]
        records += _iso_record(name.upper().encode() + b";1", place, len(content), 0)
    volume = bytearray(2048)
    volume[:7] = b"\x01CD001\x01"
    root = _iso_record(b"\0", 18, 2048, 2)
    volume[156 : 156 + len(root)] = root
    end = b"\xffCD001\x01".ljust(2048, b"\0")
    return bytes(32_768) + bytes(volume) + end + records.ljust(2048, b"\0") + b"".join(sectors)


def iso_joliet(shown: Mapping[str, bytes], plain: Mapping[str, bytes]) -> bytes:
    """An image with two trees: Joliet, whose names are UTF-16, and the plain one."""
    sectors: list[bytes] = []
    directories: list[bytes] = []
    for tree, coding in ((plain, "ascii"), (shown, "utf-16-be")):
        place = 19 + len(directories)
        records = _iso_record(b"\0", place, 2048, 2) + _iso_record(b"\1", place, 2048, 2)
        for name, content in tree.items():
            records += _iso_record(f"{name};1".encode(coding), 21 + len(sectors), len(content), 0)
            sectors += [content[at : at + 2048].ljust(2048, b"\0") for at in range(0, max(len(content), 1), 2048)]
        directories.append(records.ljust(2048, b"\0"))
    volumes = b""
    for number, escape in ((1, b""), (2, b"%/E")):
        volume = bytearray(2048)
        volume[:7] = bytes([number]) + b"CD001\x01"
        volume[88 : 88 + len(escape)] = escape
        root = _iso_record(b"\0", 18 + number, 2048, 2)
        volume[156 : 156 + len(root)] = root
        volumes += bytes(volume)
    return bytes(32_768) + volumes + b"\xffCD001\x01".ljust(2048, b"\0") + b"".join(directories) + b"".join(sectors)


def _iso_record(name: bytes, place: int, size: int, flags: int) -> bytes:
    length = 33 + len(name) + (1 - len(name) % 2)
    both = struct.pack("<I", place) + struct.pack(">I", place) + struct.pack("<I", size) + struct.pack(">I", size)
    record = bytes([length, 0]) + both + bytes(7) + bytes([flags, 0, 0]) + b"\1\0\0\1" + bytes([len(name)]) + name
    return record.ljust(length, b"\0")


def compound(streams: Sequence[tuple[str, bytes]], *, root_class: bytes = bytes(16)) -> bytes:
    """An OLE compound file. Names with `/` lie in storages; every stream is padded beyond the mini stream's bound."""
    names: list[tuple[str, int, bytes]] = []
    storages: dict[str, list[int]] = {"": []}
    for path, content in streams:
        above = ""
        *folders, name = path.split("/")
        for folder in folders:
            inner = f"{above}/{folder}"
            if inner not in storages:
                storages[inner] = []
                storages[above].append(len(names) + 1)
                names.append((folder, 1, inner.encode()))
            above = inner
        storages[above].append(len(names) + 1)
        names.append((name, 2, content.ljust(4096, b"\0")))
    return _lay_out(names, storages, root_class)


def _lay_out(names: list[tuple[str, int, bytes]], storages: dict[str, list[int]], root_class: bytes) -> bytes:
    siblings = {first: after for inside in storages.values() for first, after in zip(inside, [*inside[1:], 0xFFFFFFFF], strict=True)}
    directory_sectors = -(-(len(names) + 1) // 4)
    fat = [0xFFFFFFFD, *range(2, directory_sectors + 1), 0xFFFFFFFE]
    entries = _directory_entry("Root Entry", 5, 0xFFFFFFFF, (storages[""] or [0xFFFFFFFF])[0], 0xFFFFFFFE, 0, root_class)
    body = b""
    for number, (name, kind, content) in enumerate(names, 1):
        if kind == 1:
            child = (storages[content.decode()] or [0xFFFFFFFF])[0]
            entries += _directory_entry(name, 1, siblings[number], child, 0, 0, bytes(16))
            continue
        count = -(-len(content) // 512)
        start = len(fat)
        fat += [*range(start + 1, start + count), 0xFFFFFFFE]
        body += content.ljust(count * 512, b"\0")
        entries += _directory_entry(name, 2, siblings[number], 0xFFFFFFFF, start, len(content), bytes(16))
    table = struct.pack(f"<{len(fat)}I", *fat).ljust(512, b"\xff")
    assert len(table) == 512, "one sector of FAT is all that is made here"
    head = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(16) + struct.pack("<HHHHH", 0x3E, 3, 0xFFFE, 9, 6) + bytes(6)
    head += struct.pack("<IIIIIIIIII", 0, 1, 1, 0, 4096, 0xFFFFFFFE, 0, 0xFFFFFFFE, 0, 0)
    return head.ljust(512, b"\xff") + table + entries.ljust(directory_sectors * 512, b"\0") + body


def _directory_entry(name: str, kind: int, sibling: int, child: int, start: int, size: int, class_id: bytes) -> bytes:
    encoded = name.encode("utf-16-le")
    entry = encoded.ljust(64, b"\0") + struct.pack("<HBBIII", len(encoded) + 2, kind, 1, 0xFFFFFFFF, sibling, child)
    return entry + class_id + bytes(20) + struct.pack("<IQ", start, size)


def vba_module(source: str) -> bytes:
    """A module's stream: some compiled code, then the source in a compressed container of literals (MS-OVBA 2.4.1)."""
    text = f'Attribute VB_Name = "M"\r\n{source}'.encode()
    out = b"\x01"
    for at in range(0, len(text), 3600):
        chunk = text[at : at + 3600]
        body = b"".join(b"\0" + chunk[group : group + 8] for group in range(0, len(chunk), 8))
        out += struct.pack("<H", 0xB000 | len(body) - 1) + body
    return b"compiled" + out


def excel4_workbook(*, auto_open: bool) -> bytes:
    """An old Excel workbook with a hidden sheet of Excel 4.0 macros (MS-XLS 2.4.28), and perhaps the name that runs one (2.4.150)."""
    sheet = struct.pack("<IBB", 0, 2, 1) + b"\x01\0m"
    name = struct.pack("<HBBHHHBBBB", 0x20, 0, 1, 0, 0, 0, 0, 0, 0, 0) + b"\0\x01"
    records = [(0x809, b"\0\x06\x05\0" + bytes(12)), (0x85, sheet), *([(0x18, name)] if auto_open else []), (0x0A, b"")]
    return compound([("Workbook", b"".join(struct.pack("<HH", kind, len(body)) + body for kind, body in records))])


def word_with_macro(source: str) -> bytes:
    """An old Word document with one module."""
    return compound([("WordDocument", bytes(64)), ("Macros/VBA/M", vba_module(source)), ("Macros/VBA/_VBA_PROJECT", b"\xcc\x61")])


def tnef(files: Mapping[str, bytes]) -> bytes:
    """A winmail.dat with attachments; the short title is cut to 8.3 and the long name is a MAPI property."""
    out = struct.pack("<IH", 0x223E9F78, 1)
    for name, content in files.items():
        encoded = name.encode("utf-16-le") + b"\0\0"
        long_name = struct.pack("<IIII", 1, 0x3707001F, 1, len(encoded)) + encoded.ljust(-(-len(encoded) // 4) * 4, b"\0")
        for attribute, body in ((0x69002, bytes(14)), (0x18010, b"SHORT~1.TXT\0"), (0x6800F, content), (0x69005, long_name)):
            out += b"\x02" + struct.pack("<II", attribute, len(body)) + body + struct.pack("<H", sum(body) & 0xFFFF)
    return out


def zstd(content: bytes) -> bytes:
    """A Zstandard frame of raw blocks (RFC 8878 3.1)."""
    out = b"\x28\xb5\x2f\xfd\x80\x58" + struct.pack("<I", len(content))
    pieces = [content[at : at + 65_536] for at in range(0, len(content), 65_536)] or [b""]
    for piece in pieces:
        out += struct.pack("<I", len(piece) << 3 | (piece is pieces[-1]))[:3] + piece
    return out
