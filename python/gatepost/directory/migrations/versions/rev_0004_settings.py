"""Settings of rules and options of handlers, as JSON of what differs from the defaults."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_COLUMNS = (("domain_rules", "settings"), ("handlers", "options"))


def upgrade() -> None:
    for table, column in _COLUMNS:
        op.add_column(table, sa.Column(column, sa.Text(), nullable=False, server_default=""))


def downgrade() -> None:
    for table, column in _COLUMNS:
        op.drop_column(table, column)
