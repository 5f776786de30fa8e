"""LMTP (RFC 2033): SMTP's session with LHLO and a reply per recipient, for clients on this machine or in trusted networks."""

from gatepost.server.lmtp.server import LmtpServer

__all__ = ["LmtpServer"]
