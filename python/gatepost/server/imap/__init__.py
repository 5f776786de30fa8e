"""IMAP server: `ImapServer`, built by app/ for the listeners imap and imaps."""

from gatepost.server.imap.connection import ImapConnection
from gatepost.server.imap.listener import ImapServer

__all__ = ["ImapConnection", "ImapServer"]
