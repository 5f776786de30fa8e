"""Attachment inspection and policy: what is inside a message (native), and what the rules say to that. docs/scanning.md is its manual."""
