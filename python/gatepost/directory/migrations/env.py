"""Run by Alembic when database.py upgrades a file. The connection and its transaction are the caller's."""

from alembic import context
from sqlalchemy import Connection

from gatepost.directory.schema import metadata

connection = context.config.attributes["connection"]
assert isinstance(connection, Connection)  # upgrades start in database.py, never from the alembic command
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True, transactional_ddl=True)
context.run_migrations()
