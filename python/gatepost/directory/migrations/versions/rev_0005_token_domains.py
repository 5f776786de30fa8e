"""The domains of a domain admin's token."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("tokens", sa.Column("domains", sa.String(), nullable=False, server_default=""))


def downgrade() -> None:
    op.drop_column("tokens", "domains")
