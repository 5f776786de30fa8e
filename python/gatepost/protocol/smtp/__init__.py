"""Grammar of SMTP commands (RFC 5321 4.1.1) and of the parameters of MAIL and RCPT. Text in, values or SmtpError out."""
