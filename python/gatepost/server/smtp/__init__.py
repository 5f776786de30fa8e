"""SMTP and submission servers: aiosmtpd's command model on a buffered protocol of our own.

`SmtpServer` (server.py) listens; each connection is an `SmtpSession` (session.py: the commands) on top of a `Connection`
(connection.py: lines, replies, TLS, deadlines). Message octets go through an `Intake` (intake.py) to the native spool.
"""

from gatepost.server.smtp.server import SmtpServer

__all__ = ["SmtpServer"]
