"""Transports that carry routes out (local, smtp, lmtp), the DNS resolver they ask, and the builder of delivery status notifications."""
