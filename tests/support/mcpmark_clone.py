"""A clone in the form of MCPMark's, with tasks of our own: two on files and one on a database, easy to solve.

As a program, `python -m tests.support.mcpmark_clone`, it is an MCP server that writes files, on stdin and stdout."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from a3b.evals.benchmarks.mcpmark.kit import BenchmarkKit, PostgresPrograms
from tests.support.paths import ROOT

FILES = {
    "tasks/filesystem/standard/notes/count/description.md": "Write into answer.txt how many notes there are.\n",
    "tasks/filesystem/standard/notes/count/meta.json": json.dumps(
        {"category_id": "notes", "meta_data": {"stateUrl": "https://example.com/notes.zip"}}
    ),
    "tasks/filesystem/standard/notes/count/verify.py": """\
import os, sys
from pathlib import Path

root = Path(os.environ["FILESYSTEM_TEST_DIR"])
found = (root / "answer.txt").read_text().strip() if (root / "answer.txt").exists() else None
print("✗ answer.txt says", found)
sys.exit(0 if found == str(len(list((root / "notes").iterdir()))) else 1)
""",
    "tasks/filesystem/standard/notes/rename/description.md": "Rename note a to b.\n",
    "tasks/filesystem/standard/notes/rename/verify.py": "import sys\nsys.exit(1)\n",
    "tasks/filesystem/standard/absent/find/description.md": "Find the file.\n",
    "tasks/filesystem/standard/absent/find/verify.py": "import sys\nsys.exit(0)\n",
    "tasks/postgres/standard/shop/prices/description.md": "Raise all prices of table item by one.\n",
    "tasks/postgres/standard/shop/prices/prepare_environment.py": """\
import os, sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))
from shop_setup import fill

fill(os.environ)
""",
    "tasks/postgres/standard/shop/shop_setup.py": """\
import psycopg2


def connect(environ):
    names = ("host", "port", "user", "password", "database")
    keys = ("HOST", "PORT", "USERNAME", "PASSWORD", "DATABASE")
    return psycopg2.connect(**{name: environ["POSTGRES_" + key] for name, key in zip(names, keys)})


def fill(environ):
    with connect(environ) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE item (name text, price integer)")
        cursor.execute("INSERT INTO item VALUES ('cup', 3), ('pot', 11)")
        cursor.execute("CREATE ROLE clerk LOGIN PASSWORD 'clerk'")
""",
    "tasks/postgres/standard/shop/prices/verify.py": """\
import os, sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))
from shop_setup import connect

with connect(os.environ) as connection, connection.cursor() as cursor:
    cursor.execute("SELECT price FROM item ORDER BY price")
    found = [price for price, in cursor.fetchall()]
print("FAIL: prices are", found, "in", sys.argv[1])
sys.exit(0 if found == [4, 12] else 1)
""",
    "test_environments/notes/notes/a": "first\n",
    "test_environments/notes/notes/b": "second\n",
}
SERVERS = {  # of files, in the form of --set mcp
    "files": {
        "command": sys.executable,
        "args": ["-m", "tests.support.mcpmark_clone"],
        "env": {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "FILES_ROOT": "${DIRECTORY}"},
        "readable": [str(ROOT)],
        "startTimeout": 300_000,
    }
}


def make_clone(root: Path) -> Path:
    for name, text in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def own_kit(postgres: PostgresPrograms | None = None) -> BenchmarkKit:
    """The interpreter of the tests in the place of one that would have to be installed."""
    places = {Path(sys.prefix), Path(sys.base_prefix).resolve(), *(Path(p) for p in sys.path if Path(p).is_dir())}
    return BenchmarkKit(Path(sys.executable), tuple(sorted(places)), postgres)


def main() -> None:
    import os

    from mcp.server.mcpserver import MCPServer

    server = MCPServer("files")

    @server.tool()
    def write_file(path: str, content: str) -> str:
        """Write a file."""
        (Path(os.environ["FILES_ROOT"]) / path).write_text(content, encoding="utf-8")
        return f"wrote {path}"

    @server.tool()
    def is_there(path: str) -> str:
        """Whether a file is there."""
        return str(Path(path).exists())

    server.run("stdio")


if __name__ == "__main__":
    main()
