"""The house rules that no linter knows."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from worker.metrics import COUNTERS, GAUGES, HISTOGRAMS

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("config", "console", "handlers", "intake", "migrations", "storage", "worker")
#: The executor's libraries: minutes of import and gigabytes of memory, and the way to untrusted bytes.
HEAVY = {
    "torch", "torchvision", "torchaudio", "transformers", "numpy", "PIL", "cv2", "diffusers", "whisper", "safetensors",
    "TTS", "silero_vad", "tokenizers",
}  # fmt: skip

COURIER = """
import importlib, json, pkgutil, sys
for room in ("config", "intake", "migrations", "storage", "worker"):
    package = importlib.import_module(room)
    for module in pkgutil.walk_packages(package.__path__, f"{room}."):
        if module.name != "migrations.env":
            importlib.import_module(module.name)
from console.cli import COMMANDS
for place, _ in COMMANDS.values():
    importlib.import_module(place.partition(":")[0])
from handlers.registry import Registry
registry = Registry.load(test_types=True)
print(json.dumps({"modules": sorted({name.partition(".")[0] for name in sys.modules}), "types": list(registry)}))
"""


def modules(*rooms: str) -> Iterator[tuple[Path, ast.Module]]:
    for room in rooms:
        for path in sorted((ROOT / room).rglob("*.py")):
            yield path.relative_to(ROOT), ast.parse(path.read_text(encoding="utf-8"))


def imported_at_the_top(tree: ast.AST) -> Iterator[str]:
    """Names of modules whose import runs with the module's own: not those in functions or for type checkers."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for other in node.orelse:
                yield from imported_at_the_top(ast.Module([other], []))
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from imported_at_the_top(node)


@pytest.fixture(scope="module")
def courier() -> dict[str, list[str]]:
    """What is loaded in a process that has imported the courier's rooms, every command and every declaration."""
    done = subprocess.run([sys.executable, "-c", COURIER], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded: dict[str, list[str]] = json.loads(done.stdout)
    return loaded


def test_the_courier_loads_none_of_the_executor_s_libraries(courier: dict[str, list[str]]) -> None:
    assert {"image.caption", "image.embed", "text.embed", "test.fault", "test.noop"} <= set(courier["types"])
    assert {"worker", "console", "storage", "handlers", "boto3", "sqlalchemy"} <= set(courier["modules"])
    assert HEAVY & set(courier["modules"]) == set()


def test_no_module_of_the_handlers_imports_a_model_library_at_its_top() -> None:
    found = {
        f"{path}: {name}"
        for path, tree in modules("handlers", "config", "toyworld")
        for name in imported_at_the_top(tree)
        if name.partition(".")[0] in HEAVY
    }
    assert found == set()


def test_the_search_for_imports_finds_what_runs_with_the_module_and_nothing_else() -> None:
    source = """
import a
from b.c import d
if TYPE_CHECKING:
    import no
else:
    import e
try:
    import f
except ImportError:
    import g
class X:
    import h
    def y(self):
        import no
async def z():
    import no
"""
    assert sorted(imported_at_the_top(ast.parse(source))) == ["a", "b.c", "e", "f", "g", "h"]


def test_every_metric_that_is_declared_is_fed_by_the_call_of_its_kind() -> None:
    calls: dict[str, set[str]] = {"count": set(COUNTERS), "observe": set(HISTOGRAMS), "set": set(GAUGES)}
    fed: dict[str, set[str]] = {kind: set() for kind in calls}
    for path, tree in modules("worker", "console", "intake"):
        if path.name == "metrics.py":
            continue
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
                continue
            first = node.args[0]
            if node.func.attr in calls and isinstance(first, ast.Constant) and isinstance(first.value, str):
                fed[node.func.attr].add(first.value)
    for kind, declared in calls.items():
        assert declared - fed[kind] == set()


#: A text that is a statement, whatever its case; words alone ("Select a picture") are not.
SQL = re.compile(
    r"\b(select\s.+\sfrom|insert\s+into|delete\s+from|update\s+\w+(\s+\w+)?\s+set|(create|alter|drop|lock)\s+table)\b",
    re.IGNORECASE | re.DOTALL,
)


def statements(tree: ast.Module) -> Iterator[str]:
    documented = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documented:
            if SQL.search(node.value):
                yield node.value
        elif isinstance(node, ast.JoinedStr) and SQL.search(ast.unparse(node)):
            yield ast.unparse(node)


def test_sql_stands_in_storage_and_in_migrations_and_nowhere_else() -> None:
    elsewhere = [room for room in ROOMS if room not in ("storage", "migrations")]
    assert [(str(path), sql) for path, tree in modules(*elsewhere) for sql in statements(tree)] == []
    assert any(statements(tree) for _, tree in modules("storage"))


@pytest.mark.parametrize(
    "sql",
    ["SELECT 1 FROM x", "insert into x values (1)", "UPDATE x j SET y = 1", "DROP TABLE x", "DELETE FROM x"],
)
def test_the_search_for_sql_finds_it(sql: str) -> None:
    assert list(statements(ast.parse(f"x = {sql!r}")))
    assert list(statements(ast.parse(f"x = f{sql + ' {y}'!r}")))
    assert not list(statements(ast.parse(f'"""{sql}"""')))


def test_every_migration_is_named_by_its_revision() -> None:
    for path, tree in modules("migrations/versions"):
        if path.name == "__init__.py":
            continue
        [revision] = [
            node.value.value
            for node in tree.body
            if isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and node.targets[0].id == "revision"
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ]
        assert path.name.startswith(f"v{revision}_")
