"""POP3 (RFC 1939) without I/O: `Pop3Machine` takes octets and gives what to send and what to ask of the mail store.

Called by server/pop3 only.
"""
