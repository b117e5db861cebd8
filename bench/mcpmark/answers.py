"""Answers to the tasks of MCPMark whose state can be had without its servers, and answers with one mistake each. They
prove that state, server and verifier work together; `known.py`, `wrong.py` and `nothing.py` print them as calls.

What a task gives as data (tables of customers, permissions) is read from its description, never kept here."""

from __future__ import annotations

import ast
import csv
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
Call = dict[str, Any]
Answer = Callable[[str, Path, bool], list[Call]]  # description, workspace, whether with its mistake


def sql(text: str) -> list[Call]:
    return [{"tool": "execute_sql", "arguments": {"sql": text}}]


def write(path: Path, text: str) -> list[Call]:
    return [{"tool": "write_file", "arguments": {"path": str(path), "content": text}}]


def query(name: str, mistake: tuple[str, str]) -> Answer:
    """The statements of sql/NAME.sql; the mistake replaces a text of theirs."""

    def answer(description: str, workspace: Path, is_wrong: bool) -> list[Call]:
        text = (HERE / "sql" / f"{name}.sql").read_text(encoding="utf-8")
        return sql(spoiled(text, *mistake) if is_wrong else text)

    return answer


def spoiled(text: str, right: str, wrong: str) -> str:
    assert text.count(right) == 1, f"{right!r} stands {text.count(right)} times there"
    return text.replace(right, wrong)


def quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def values(rows: list[tuple[str, ...]]) -> str:
    return ",\n".join("(" + ", ".join(quoted(cell) for cell in row) + ")" for row in rows)


def permission_audit(description: str, workspace: Path, is_wrong: bool) -> list[Call]:
    """The mistake: accounts without a role are not looked at for permissions."""
    code = re.search(r"```python\n(.*?)```", description, re.DOTALL)
    assert code is not None
    tables = {node.targets[0].id: ast.literal_eval(node.value) for node in ast.parse(code[1]).body}  # type: ignore
    expected = [
        (user, table, permission)
        for user, role in tables["USER_ROLE"].items()
        for table, permission in tables["ROLE_EXPECTED_PERMISSIONS"][role]
    ]
    text = (
        (HERE / "sql" / "user_permission_audit.sql")
        .read_text(encoding="utf-8")
        .replace("/*EXPECTED*/", values(expected))
    )
    return sql(
        spoiled(text, "WHERE NOT r.rolsuper", "WHERE r.rolname IN (SELECT username FROM expected)")
        if is_wrong
        else text
    )


def migration(description: str, workspace: Path, is_wrong: bool) -> list[Call]:
    """The mistake: the fax number is empty instead of unknown."""
    lines = [line.strip().strip("|").split("|") for line in description.splitlines() if line.strip().startswith("|")]
    rows = [tuple(cell.strip() for cell in line) for line in lines[2:]]
    names = [cell.strip() for cell in lines[0]]
    columns = ", ".join(f'"{name}"' for name in names)
    fax = "''" if is_wrong else "NULL"
    return sql(
        f'INSERT INTO "Customer" ("CustomerId", {columns}, "SupportRepId", "Fax")\n'
        f'SELECT (SELECT max("CustomerId") FROM "Customer") + row_number() OVER (), {columns}, 3, {fax}\n'
        f"FROM (VALUES\n{values(rows)}\n) AS given ({columns})"
    )


def hierarchy(description: str, workspace: Path, is_wrong: bool) -> list[Call]:
    """The mistake: the last employee of IT is not promoted."""
    new = []
    for line in re.findall(r"^- (EmployeeId: \d+, .*)$", description, re.MULTILINE):
        pairs = re.findall(r"(\w+): ('[^']*'|\d+)", line)
        names, cells = ", ".join(f'"{name}"' for name, _ in pairs), ", ".join(value for _, value in pairs)
        new.append(f'INSERT INTO "Employee" ({names}) VALUES ({cells});')
    assert len(new) == 2
    text = (HERE / "sql" / "employee_hierarchy_management.sql").read_text(encoding="utf-8")
    text = text.replace("/*NEW*/", "\n".join(new))
    return sql(spoiled(text, "'Senior IT Specialist'", "'IT Specialist'") if is_wrong else text)


def locate(description: str, workspace: Path, is_wrong: bool) -> list[Call]:
    """The mistake: a file of almost the same name."""
    name = "stable_zero123_guidance.py" if is_wrong else "zero123_guidance.py"
    found = next(workspace.rglob(name)).relative_to(workspace)
    return write(workspace / "answer.txt", str(found))


def structure(description: str, workspace: Path, is_wrong: bool) -> list[Call]:
    """The mistake: the lines where the value is used, not where it is made."""
    path = next(workspace.rglob("zero123_guidance.py"))
    lines = path.read_text(encoding="utf-8").splitlines()
    first = next(i for i, line in enumerate(lines, 1) if "guidance_out = {" in line)
    last = next(i for i, line in enumerate(lines, 1) if i > first and line.strip() == "}")
    keys = re.findall(r'"(\w+)":', "\n".join(lines[first - 1 : last]))
    place = f"lines {137 if is_wrong else first}-{138 if is_wrong else last}"
    return write(workspace / "answer.txt", f"{path.relative_to(workspace)}, {place}: a dict with {', '.join(keys)}\n")


def missing_requirements(description: str, workspace: Path, is_wrong: bool) -> list[Call]:
    """The mistake: one of the packages is forgotten."""
    path = workspace / "requirements.txt"
    names = ["einops", "kornia", "taming-transformers-rom1504", "git+https://github.com/openai/CLIP.git"]
    if is_wrong:
        names.remove("kornia")
    return write(path, path.read_text(encoding="utf-8") + "\n".join(names) + "\n")


def comparison(description: str, workspace: Path, is_wrong: bool) -> list[Call]:
    """The mistake: the raw names are compared."""
    categories = re.search(
        r"type2class\s*=\s*\{(.*?)\}", (workspace / "sunrgbd" / "model_util_sunrgbd.py").read_text("utf-8"), re.DOTALL
    )
    assert categories is not None
    counts = dict.fromkeys(re.findall(r"'(\w+)'", categories[1]), 0)
    column = "raw_category" if is_wrong else "category"
    with open(workspace / "scannet" / "meta_data" / "scannetv2-labels.combined.tsv", encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            name = {"nightstand": "night_stand"}.get(row[column], row[column])
            if name in counts:
                counts[name] += int(row["count"])
    return write(workspace / "analysis.txt", "\n\n".join(f"{name}\n{count}" for name, count in counts.items()) + "\n")


def debugging(description: str, workspace: Path, is_wrong: bool) -> list[Call]:
    """The mistake: the width is doubled at the wrong end."""
    path = workspace / "models" / "backbone_module.py"
    old = "self.fp2 = PointnetFPModule(mlp=[256,256,256])"
    new = "[256,256,256+256]" if is_wrong else "[256+256,256,256]"
    edit = {"oldText": old, "newText": f"self.fp2 = PointnetFPModule(mlp={new})"}
    fixed = [{"tool": "edit_file", "arguments": {"path": str(path), "edits": [edit]}}]
    return fixed + write(workspace / "answer.txt", "models/backbone_module.py")


def requirements(description: str, workspace: Path, is_wrong: bool) -> list[Call]:
    """The mistake: a package that only one module imports is forgotten."""
    names = [
        "torch",
        "tensorflow",
        "numpy",
        "matplotlib",
        "opencv-python",
        "plyfile",
        "trimesh",
        "networkx",
        "pointnet2",
    ]
    if is_wrong:
        names.remove("networkx")
    return write(workspace / "requirements.txt", "\n".join(names) + "\n")


ANSWERS: dict[str, Answer] = {
    "postgres/standard/security/rls_business_access": query(
        "rls_business_access", ("WITH CHECK (is_channel_owner(channel_id, acting_user()))", "WITH CHECK (true)")
    ),
    "postgres/standard/security/user_permission_audit": permission_audit,
    "postgres/standard/vectors/dba_vector_analysis": query(
        "dba_vector_analysis", ("WHERE NOT a.attisdropped", "WHERE t.relname = 'documents' AND NOT a.attisdropped")
    ),
    "postgres/standard/chinook/sales_and_music_charts": query(
        "sales_and_music_charts", ('avg("Total")', 'avg("Total" / tracks)')
    ),
    "postgres/standard/chinook/customer_data_migration": migration,
    "postgres/standard/chinook/employee_hierarchy_management": hierarchy,
    "postgres/easy/chinook/customer_data_migration_basic": migration,
    "postgres/easy/chinook/update_employee_info": query(
        "update_employee_info", ("'+1 (403) 555-9999'", "'403 555-9999'")
    ),
    "filesystem/standard/threestudio/code_locating": locate,
    "filesystem/standard/threestudio/output_analysis": structure,
    "filesystem/standard/threestudio/requirements_completion": missing_requirements,
    "filesystem/standard/votenet/dataset_comparison": comparison,
    "filesystem/standard/votenet/debugging": debugging,
    "filesystem/standard/votenet/requirements_writing": requirements,
}


def main(is_wrong: bool) -> None:
    """Prints the calls for the task and workspace that the command line names; the description comes on stdin."""
    task, workspace = sys.argv[1:3]
    if task not in ANSWERS:
        sys.exit(f"no answer to {task} is known here; there are {', '.join(ANSWERS)}")
    print(json.dumps(ANSWERS[task](sys.stdin.read(), Path(workspace), is_wrong)))
