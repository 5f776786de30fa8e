"""LmtpTransport: routes of kind lmtp (RFC 2033). The SMTP client with LHLO and a reply per recipient behind the data.

Called by queue.scheduler like SmtpTransport, of which it is the LMTP flavour; see there for invariants and faults.
"""

from gatepost.delivery.smtp import SmtpTransport


class LmtpTransport(SmtpTransport):
    """Each recipient has its own outcome: a mailbox that is full does not hold up the others."""

    lmtp = True
