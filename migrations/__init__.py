"""The schema and its history: Alembic revisions, each expand or contract, never both."""
