"""Whether a message comes from where it says: SPF (RFC 7208), DKIM (RFC 6376, 8301, 8463) and DMARC (RFC 9989), verified, never signed.

`Authentication` (verifier.py) is what sessions and dry runs ask; the rest is one module per mechanism. Look-ups go through
`policy.dns.Dns`.
"""

from gatepost.policy.mail_auth.dkim import Mail
from gatepost.policy.mail_auth.results import Outcome, Results, Signed, Spf, Word
from gatepost.policy.mail_auth.verifier import Authentication

__all__ = ["Authentication", "Mail", "Outcome", "Results", "Signed", "Spf", "Word"]
