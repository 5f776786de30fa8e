"""IMAP4rev1 (RFC 3501) without I/O: `Receiver` turns octets into commands, `FolderView` turns store changes into responses.

Called by server/imap only. Nothing here waits, reads a clock or touches a socket.
"""
