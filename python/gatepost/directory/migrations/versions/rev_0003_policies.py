"""Attachment policies, and which rule and handler names one."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "policies",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_policies"),
    )
    for table in ("domain_rules", "handlers"):
        op.add_column(table, sa.Column("policy", sa.String(), nullable=False, server_default=""))
