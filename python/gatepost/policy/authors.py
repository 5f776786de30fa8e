"""Who stands in a header as the author of a message (RFC 5322 3.6.2). Pure."""

from email.utils import getaddresses

from gatepost.message.fields import HeaderView


def authors(header: bytes) -> list[str]:
    """The addresses in From."""
    values = [value.decode("utf-8", "replace") for value in HeaderView(header).raw("from")]
    return [address for _, address in getaddresses(values) if address]
