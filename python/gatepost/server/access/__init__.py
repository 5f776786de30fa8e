"""What the POP3 and IMAP servers share: connections with back-pressure and deadlines, listeners with limits, login, the mail store."""
