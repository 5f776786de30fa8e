"""SMTP-stage checks and limits: connect, HELO, MAIL, RCPT, DATA. Called by server/; answers with a Reply or None. No I/O but counters'."""
