"""Composition root: configuration → a wired supervisor or worker. The only room that wires the others."""
