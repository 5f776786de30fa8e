"""A DNS server on loopback for one zone table, UDP and TCP, so that MX deliveries can be tested without the network."""

import socketserver
import struct
import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

Zone = Mapping[tuple[str, str], Sequence[str]]
"""(name without trailing dot, type) → rdata texts, e.g. {('example.net', 'MX'): ['10 mx.example.net.']}."""


UDP_MOST = 1232


def txt(text: str) -> str:
    """A TXT record's rdata: strings of at most 255 octets."""
    parts = [text[at : at + 255] for at in range(0, len(text), 255)] or [""]
    return " ".join('"' + part.replace("\\", "\\\\").replace('"', '\\"') + '"' for part in parts)


class DnsStub:
    """Answers from `zone`; names it does not know are NXDOMAIN, names in `failing` SERVFAIL, names in `silent` get no answer. What is too
    long for UDP is cut there (TC). `questions` records what was asked.
    """

    def __init__(self, zone: Zone, failing: Sequence[str] = (), silent: Sequence[str] = ()) -> None:
        self.questions: list[tuple[str, str]] = []
        self.use(zone, failing, silent)
        stub = self

        class Datagram(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                data, socket = self.request
                reply = stub.answer(data)
                if reply:
                    socket.sendto(reply if len(reply) <= UDP_MOST else stub.cut(data), self.client_address)

        class Stream(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                (length,) = struct.unpack("!H", self.rfile.read(2))
                reply = stub.answer(self.rfile.read(length))
                if reply:
                    self.wfile.write(struct.pack("!H", len(reply)) + reply)

        for tries in range(20, 0, -1):
            self._udp = socketserver.ThreadingUDPServer(("127.0.0.1", 0), Datagram)
            self.port: int = self._udp.server_address[1]
            try:
                self._tcp = socketserver.ThreadingTCPServer(("127.0.0.1", self.port), Stream)
                break
            except OSError:  # that number is taken for TCP
                self._udp.server_close()
                if tries == 1:
                    raise

    def use(self, zone: Zone, failing: Sequence[str] = (), silent: Sequence[str] = ()) -> None:
        """Answer from another zone, as if nothing had been asked."""
        self.zone = {(name.lower(), kind): list(values) for (name, kind), values in zone.items()}
        self.failing = {name.lower() for name in failing}
        self.silent = {name.lower() for name in silent}
        self.questions.clear()

    def cut(self, data: bytes) -> bytes:
        """The reply to a query whose answer is too long."""
        reply = dns.message.make_response(dns.message.from_wire(data))
        reply.flags |= dns.flags.RA | dns.flags.TC
        return bytes(reply.to_wire())

    def answer(self, data: bytes) -> bytes:
        """The reply to one query, in wire format; empty for none."""
        query = dns.message.from_wire(data)
        question = query.question[0]
        name, kind = question.name.to_text(omit_final_dot=True).lower(), dns.rdatatype.to_text(question.rdtype)
        self.questions.append((name, kind))
        if name in self.silent:
            return b""
        reply = dns.message.make_response(query)
        reply.flags |= dns.flags.RA | dns.flags.AA
        if name in self.failing:
            reply.set_rcode(dns.rcode.SERVFAIL)
            return bytes(reply.to_wire())
        target = self.zone.get((name, "CNAME"))
        if target and kind != "CNAME":
            reply.answer.append(dns.rrset.from_text(question.name, 60, dns.rdataclass.IN, "CNAME", target[0]))
            name = target[0].rstrip(".").lower()
        values = self.zone.get((name, kind), [])
        if values:
            reply.answer.append(dns.rrset.from_text_list(f"{name}.", 60, dns.rdataclass.IN, kind, values))
        elif not any(known == name for known, _ in self.zone):
            reply.set_rcode(dns.rcode.NXDOMAIN)
        return bytes(reply.to_wire(max_size=65_535))

    def __enter__(self) -> Self:
        for server in self._servers():
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        for server in self._servers():
            server.shutdown()
            server.server_close()

    def _servers(self) -> list[Any]:
        return [self._udp, self._tcp]
