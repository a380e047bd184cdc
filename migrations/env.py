"""Alembic's entry: runs the revisions on the connection that `storage.schema` hands over, in its transaction."""

from __future__ import annotations

from alembic import context

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=None, version_table="schema_version")
context.run_migrations()
