"""Gatepost: a mail server and mail gateway around one durable queue."""

__version__ = "0.1.0"
