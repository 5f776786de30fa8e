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


class DnsStub:
    """Answers from `zone`; names it does not know are NXDOMAIN, names in `failing` SERVFAIL. `questions` records what was asked."""

    def __init__(self, zone: Zone, failing: Sequence[str] = ()) -> None:
        self.zone = {(name.lower(), kind): list(values) for (name, kind), values in zone.items()}
        self.failing = {name.lower() for name in failing}
        self.questions: list[tuple[str, str]] = []
        stub = self

        class Datagram(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                data, socket = self.request
                socket.sendto(stub.answer(data), self.client_address)

        class Stream(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                (length,) = struct.unpack("!H", self.rfile.read(2))
                reply = stub.answer(self.rfile.read(length))
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

    def answer(self, data: bytes) -> bytes:
        """The reply to one query, in wire format."""
        query = dns.message.from_wire(data)
        question = query.question[0]
        name, kind = question.name.to_text(omit_final_dot=True).lower(), dns.rdatatype.to_text(question.rdtype)
        self.questions.append((name, kind))
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
        return bytes(reply.to_wire())

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
