"""Frozen values every layer shares: addresses, replies, envelopes, outcomes. No I/O, no clock, imports nothing of ours."""
