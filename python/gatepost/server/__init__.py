"""Protocol hosts on asyncio: SMTP, LMTP, POP3, IMAP, and the TLS contexts they share."""
