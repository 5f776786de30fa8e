"""POP3 server: `Pop3Server`, built by app/ for the listeners pop3 and pop3s."""

from gatepost.server.pop3.session import Pop3Connection, Pop3Server

__all__ = ["Pop3Connection", "Pop3Server"]
