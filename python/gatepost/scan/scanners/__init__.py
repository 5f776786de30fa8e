"""Scanners: programs and engines asked whether content is malicious. docs/scanners.md is the manual, `plugin` what a plug-in implements.

`pool` asks them side by side within a deadline; `clamd`, `icap`, `rspamd` and `yara` are shipped, others come by the entry point group
`gatepost.scanners`. Everything runs in a worker's event loop.
"""
