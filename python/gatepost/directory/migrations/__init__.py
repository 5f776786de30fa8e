"""Alembic's scripts for directory.db: env.py runs them, versions/ holds one per schema revision."""
