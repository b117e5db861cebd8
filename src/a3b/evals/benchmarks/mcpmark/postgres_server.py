"""An MCP server for one PostgreSQL database, with the five tools of `postgres-mcp` that need no extension.

Runs in the benchmark's environment, `python postgres_server.py DATABASE_URI`, on stdin and stdout; imports nothing of
a3b. Names and arguments of the tools are those of crystaldba/postgres-mcp 0.3, which MCPMark uses."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from typing import Any

import psycopg2  # type: ignore[import-untyped, unused-ignore]  # of the benchmark's environment
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

MAX_ROWS, MAX_CHARACTERS = 1_000, 200_000
STATEMENT_MS = 55_000  # below the time that a client waits for a call

server = MCPServer("postgres")


def rows_of(query: str, arguments: tuple[Any, ...] | None = None) -> str:
    """The rows of a query as JSON objects, or what else it did. Raises ToolError."""
    options = f"-c statement_timeout={STATEMENT_MS}"
    try:
        with closing(psycopg2.connect(sys.argv[1], options=options)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(query, arguments)
                if cursor.description is None:
                    return cursor.statusmessage or "done"
                names = [column.name for column in cursor.description]
                rows = cursor.fetchmany(MAX_ROWS + 1)
    except psycopg2.Error as error:
        raise ToolError(str(error).strip()) from None
    found = [dict(zip(names, row, strict=True)) for row in rows[:MAX_ROWS]]
    text = json.dumps(found, default=str, ensure_ascii=False)
    if len(rows) > MAX_ROWS or len(text) > MAX_CHARACTERS:
        text = f"{text[:MAX_CHARACTERS]}\n... more than is shown; narrow the query"
    return text


@server.tool()
def list_schemas() -> str:
    """List all schemas in the database."""
    return rows_of("SELECT nspname AS schema, pg_get_userbyid(nspowner) AS owner FROM pg_namespace ORDER BY 1")


@server.tool()
def list_objects(schema_name: str, object_type: str = "table") -> str:
    """List the objects of a schema. object_type: table, view, sequence or extension."""
    queries = {
        "table": "SELECT table_name AS name FROM information_schema.tables "
        "WHERE table_schema = %s AND table_type = 'BASE TABLE' ORDER BY 1",
        "view": "SELECT table_name AS name FROM information_schema.views WHERE table_schema = %s ORDER BY 1",
        "sequence": "SELECT sequence_name AS name FROM information_schema.sequences "
        "WHERE sequence_schema = %s ORDER BY 1",
        "extension": "SELECT extname AS name, extversion AS version FROM pg_extension "
        "JOIN pg_namespace n ON n.oid = extnamespace WHERE n.nspname = %s ORDER BY 1",
    }
    if object_type not in queries:
        raise ToolError(f"object_type {object_type[:80]!r}; expected one of {', '.join(queries)}")
    return rows_of(queries[object_type], (schema_name,))


@server.tool()
def get_object_details(schema_name: str, object_name: str) -> str:
    """Columns, constraints and indexes of a table or view."""
    where = (schema_name, object_name)
    parts = {
        "columns": "SELECT column_name, data_type, udt_name, is_nullable, column_default "
        "FROM information_schema.columns WHERE table_schema = %s AND table_name = %s ORDER BY ordinal_position",
        "constraints": "SELECT conname AS name, pg_get_constraintdef(c.oid) AS definition FROM pg_constraint c "
        "JOIN pg_class t ON t.oid = conrelid JOIN pg_namespace n ON n.oid = t.relnamespace "
        "WHERE n.nspname = %s AND t.relname = %s ORDER BY 1",
        "indexes": "SELECT indexname AS name, indexdef AS definition FROM pg_indexes "
        "WHERE schemaname = %s AND tablename = %s ORDER BY 1",
    }
    return json.dumps({name: json.loads(rows_of(query, where)) for name, query in parts.items()}, ensure_ascii=False)


@server.tool()
def explain_query(sql: str, analyze: bool = False) -> str:
    """The plan of a query. analyze: run it, for real times."""
    return rows_of(f"EXPLAIN ({'ANALYZE, ' if analyze else ''}FORMAT TEXT) {sql}")


@server.tool()
def execute_sql(sql: str) -> str:
    """Run any SQL, several statements too. Rows of the last one come back."""
    return rows_of(sql)


if __name__ == "__main__":
    server.run("stdio")
