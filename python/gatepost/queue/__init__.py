"""Schedule, retry and recipient states over the spool; owns the Transport protocol that delivery/ implements."""
