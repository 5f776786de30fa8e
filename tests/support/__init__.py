"""Real servers and real programs for the tests and benches: Gatepost itself, Postfix, Dovecot, a DNS stub, mail programs."""
