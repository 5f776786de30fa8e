"""A gzip file and a zip file that unpack to themselves, octet for octet: whoever opens what he finds in them never ends.

Called by tests/unit/scan. The construction is the published one of Lempel-Ziv quines: a program of two commands, "print these octets"
(a stored block of deflate) and "print the last n octets again" (a match), that prints itself with what stands before and behind it.
The checksum of the file stands in the file; as CRC-32 is linear, the one that fits is the solution of 32 equations.
"""

import struct
import zlib
from collections.abc import Callable

GZIP_NAME = b"quine"
ZIP_NAME = b"quine.zip"


def gzip_quine() -> bytes:
    """RFC 1952: header with a name, deflate, checksum and size."""
    head = b"\x1f\x8b\x08\x08" + bytes(5) + b"\xff" + GZIP_NAME + b"\0"
    return _solve(lambda crc: _file(head, lambda size, _: struct.pack("<II", crc, size)))


def zip_quine() -> bytes:
    """One member, the zip itself, whose name ends in .zip."""

    def local(crc: int, packed: int, size: int) -> bytes:
        return struct.pack("<HHHHHIIIHH", 20, 0, 8, 0, 33, crc, packed, size, len(ZIP_NAME), 0)

    def made(crc: int, packed: int, size: int) -> bytes:
        def tail(_size: int, deflated: int) -> bytes:
            central = b"PK\x01\x02\x14\0" + local(crc, packed, size) + bytes(14) + ZIP_NAME
            return central + struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 1, 1, len(central), 30 + len(ZIP_NAME) + deflated, 0)

        return _file(b"PK\x03\x04" + local(crc, packed, size) + ZIP_NAME, tail)

    size = len(made(0, 0, 0))
    packed = size - 30 - len(ZIP_NAME) - 46 - len(ZIP_NAME) - 22
    return _solve(lambda crc: made(crc, packed, size))


def _file(head: bytes, tail: Callable[[int, int], bytes]) -> bytes:
    """`head`, the program, and `tail`, which is told the size of the file and of the program."""
    unit, room = 8, len(head) + 5
    first = _again(room, 2 * unit - 5)
    block = 2 * unit + 10
    cycle = _again(block, unit)
    program = _length(room) + head + _length(room)
    program += first
    program += _length(len(first)) + first + _length(5) + _length(len(first))
    program += _length(block) + first + _length(5) + _length(len(first)) + _length(block)
    program += cycle
    program += _length(block) + cycle + _length(block) + cycle + _length(block)
    program += cycle
    behind = len(tail(0, 0))
    for size in range(6, 16):
        last = _again(behind + size, size, final=True)
        if last:
            break
    pause = _nothing(6) + _nothing(7) + _length(len(last) + behind)
    program += _length(block) + cycle + pause
    program += cycle
    program += pause
    deflated = len(program) + 2 * len(last) + behind
    end = tail(len(head) + deflated + behind, deflated)
    return head + program + last + end + last + end


def _length(count: int) -> bytes:
    """The head of a stored block (RFC 1951 3.2.4): print the next `count` octets."""
    return b"\0" + struct.pack("<HH", count, count ^ 0xFFFF)


def _nothing(size: int) -> bytes:
    """Blocks without content, `size` octets of them."""
    return _blocks("", size, final=False)


def _again(count: int, size: int, *, final: bool = False) -> bytes:
    """Print the last `count` octets again, written with `size` octets; empty when that does not go."""
    return _blocks(_match(count), size, final=final)


def _blocks(match: str, size: int, *, final: bool) -> bytes:
    """One block with the match, others without anything, and a stored one, which ends with an octet."""
    bits = f"010{match}0000000" if match else ""
    while len(bits) + 3 <= (size - 5) * 8:
        bits += "0100000000"
    bits += "100" if final else "000"
    octets = (len(bits) + 7) // 8
    if octets != size - 4:
        return b""
    bits = bits.ljust(octets * 8, "0")
    return bytes(int(bits[at : at + 8][::-1], 2) for at in range(0, len(bits), 8)) + b"\0\0\xff\xff"


def _match(count: int) -> str:
    """Length and distance with the fixed codes (RFC 1951 3.2.5, 3.2.6)."""
    code, extra, least = _symbol(count, 3, 2)
    code += 257
    text = f"{code - 256:07b}" if code < 280 else f"{code - 280 + 0b11000000:08b}"
    text += _low_first(count - least, extra)
    code, extra, least = _symbol(count, 1, 1)
    return text + f"{code:05b}" + _low_first(count - least, extra)


def _symbol(value: int, least: int, steps: int) -> tuple[int, int, int]:
    """Code, extra bits, and least value of the code; 2 ** steps codes for each number of extra bits, twice as many for none."""
    code, extra = 0, 0
    while value >= least + (1 << extra):
        least += 1 << extra
        code += 1
        extra = max((code >> steps) - 1, 0)
    return code, extra, least


def _low_first(value: int, bits: int) -> str:
    return f"{value:0{bits}b}"[::-1] if bits else ""


def _solve(made: Callable[[int], bytes]) -> bytes:
    """The file whose checksum is the one in it: crc(made(x)) = x, which is linear but for a constant."""
    start = zlib.crc32(made(0))
    rows = [zlib.crc32(made(1 << bit)) ^ start ^ 1 << bit for bit in range(32)]
    # Which of the rows together give `start`? A basis in echelon form, each vector with the bits it is made of.
    basis: dict[int, tuple[int, int]] = {}
    for bit, row in enumerate(rows):
        vector, made_of = row, 1 << bit
        while vector and vector.bit_length() in basis:
            other, others = basis[vector.bit_length()]
            vector, made_of = vector ^ other, made_of ^ others
        if vector:
            basis[vector.bit_length()] = (vector, made_of)
    vector, found = start, 0
    while vector:
        other, others = basis[vector.bit_length()]
        vector, found = vector ^ other, found ^ others
    return made(found)
