"""SMTP-stage checks and limits: connect, HELO, MAIL, RCPT, DATA. Called by server/; answers with a Reply or None. No I/O but counters'
and, in mail_auth, look-ups in the DNS through who is given.
"""
