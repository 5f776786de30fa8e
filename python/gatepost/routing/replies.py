"""The replies that refuse a recipient (RFC 5321 4.2, RFC 3463). Used by decide and the modules that carry out rules and handlers."""

from gatepost.message.reply import Reply

UNKNOWN_USER = Reply(550, "5.1.1", "No such user here")
DISABLED_USER = Reply(550, "5.2.1", "Mailbox disabled, not accepting messages")
RELAY_DENIED = Reply(554, "5.7.1", "Relay access denied")
BAD_ADDRESS = Reply(550, "5.1.3", "Bad recipient address syntax")
LOOP = Reply(554, "5.4.6", "Routing loop, or too many forwards in a row")
TOO_MANY = Reply(554, "5.4.6", "The address expands to too many addresses")
BROKEN_HANDLER = Reply(451, "4.3.5", "The handler of this address points to no mailbox")
TOO_BIG = Reply(552, "5.3.4", "Message is larger than this address takes")
NEEDS_TLS = Reply(550, "5.7.10", "This address takes mail over encrypted sessions only: use STARTTLS")
MAY_NOT_POST = Reply(550, "5.7.2", "Sender may not post to this list")


def refused_target(reply: Reply) -> Reply:
    """A forward whose target is refused is refused: permanent stays permanent, temporary stays temporary."""
    return Reply(550 if reply.permanent else 451, reply.enhanced, f"Forwarding address refused: {reply.text}")
