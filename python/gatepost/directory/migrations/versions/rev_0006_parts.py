"""The small ordered lists of the rule set: trust entries, sender rules, policies at the stages of a message."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.create_table(
        "rule_parts",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_rule_parts"),
    )


def downgrade() -> None:
    op.drop_table("rule_parts")
