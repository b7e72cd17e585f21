"""The house rules that no linter knows: sizes, names, words, docstrings, generated code."""

import ast
import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("manager", "worker", "runtime", "swarmctl", "proto/swarmapi", "tests", "deploy/lab")
GENERATED = ROOT / "proto" / "swarmapi" / "v1"
MAX_FILE_LINES = 600
MAX_FUNCTION_LINES = 70
BANNED_MODULES = {"utils", "util", "helpers", "helper", "common", "base", "misc"}
SYNONYMS = {
    "pod": "task",
    "minion": "worker",
    "cordon": "drain",
    "replica_set": "service",
    "desired_status": "desired_state",
    "heart_beat": "heartbeat",
    "load_balancer_ip": "vip",
    "route_mesh": "routing_mesh",
    "lead_manager": "leader",
}


def sources() -> Iterator[Path]:
    """All Python files of ours, without generated ones."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if GENERATED not in path.parents:
                yield path


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for found in ast.walk(ast.parse(path.read_text())):
        if isinstance(found, ast.FunctionDef | ast.AsyncFunctionDef):
            yield found


def identifiers(tree: ast.AST) -> Iterator[str]:
    """Names a module defines: functions, classes, arguments, assignment targets."""
    for found in ast.walk(tree):
        match found:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
            case ast.ClassDef(name=name):
                yield name
            case ast.arg(arg=name):
                yield name
            case ast.Name(id=name, ctx=ast.Store()):
                yield name


def words(identifier: str) -> str:
    """Write CamelCase and snake_case alike: `DesiredStatus` is `desired_status`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", identifier).lower()


def synonyms(identifier: str) -> list[str]:
    padded = f"_{words(identifier)}_"
    return [word for word in SYNONYMS if f"_{word}_" in padded]


def test_files_and_functions_have_a_size_one_can_read() -> None:
    long = [
        f"{relative(path)}: {lines} lines"
        for path in sources()
        if (lines := len(path.read_text().splitlines())) > MAX_FILE_LINES
    ]
    for path in sources():
        for function in functions(path):
            lines = (function.end_lineno or function.lineno) - function.lineno + 1
            if lines > MAX_FUNCTION_LINES:
                long.append(f"{relative(path)}:{function.lineno}: {function.name}: {lines} lines")
    assert long == []


def test_modules_are_named_for_what_they_hold() -> None:
    assert [relative(path) for path in sources() if path.stem in BANNED_MODULES] == []


def test_nothing_is_left_to_be_done_later() -> None:
    marks = re.compile("FIX" + "ME|TO" + "DO|XX" + "X:")
    found = [
        f"{relative(path)}:{number}"
        for path in sources()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if marks.search(line)
    ]
    assert found == []


def test_words_of_the_glossary_have_no_synonyms() -> None:
    found = {
        f"{relative(path)}: {identifier}: say {SYNONYMS[word]}"
        for path in sources()
        for identifier in identifiers(ast.parse(path.read_text()))
        for word in synonyms(identifier)
    }
    assert sorted(found) == []


def test_the_search_for_synonyms_reads_both_spellings() -> None:
    assert synonyms("desired_status") == synonyms("TaskDesiredStatus") == ["desired_status"]
    assert synonyms("podium") == []


def test_every_package_says_what_it_is() -> None:
    silent = [
        relative(path)
        for path in sources()
        if path.name == "__init__.py"
        and path.parent.parts[len(ROOT.parts)] != "tests"
        and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert silent == []


def test_decisions_fit_on_a_page() -> None:
    pages = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert pages
    assert [path.name for path in pages if len(path.read_text().splitlines()) > 40] == []


@pytest.mark.skipif(
    importlib.util.find_spec("grpc_tools") is None, reason="grpcio-tools is not installed"
)
def test_generated_code_is_fresh(tmp_path: Path) -> None:
    protos = sorted(GENERATED.glob("*.proto"))
    assert protos, "no .proto file in proto/swarmapi/v1"
    copy = tmp_path / "swarmapi" / "v1"
    copy.mkdir(parents=True)
    for path in protos:
        shutil.copy(path, copy)
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", ".", "--python_out=."]
    command += ["--pyi_out=.", "--grpc_python_out=."]
    command += [str(path.relative_to(tmp_path)) for path in sorted(copy.glob("*.proto"))]
    subprocess.run(command, cwd=tmp_path, check=True)
    made = {path.name: path.read_text() for path in copy.glob("*_pb2*.py*")}
    kept = {path.name: path.read_text() for path in GENERATED.glob("*_pb2*.py*")}
    stale = sorted(name for name in made | kept if made.get(name) != kept.get(name))
    assert stale == [], "run `make proto`"


def imported(path: Path) -> Iterator[str]:
    """The modules a file imports, also inside functions."""
    for found in ast.walk(ast.parse(path.read_text())):
        if isinstance(found, ast.Import):
            yield from (alias.name for alias in found.names)
        elif isinstance(found, ast.ImportFrom) and found.level == 0 and found.module:
            yield found.module


def test_the_supervisor_imports_the_standard_library_and_runtime_only() -> None:
    files = sorted((ROOT / "runtime" / "supervisor").rglob("*.py"))
    assert files
    foreign = {
        f"{relative(path)}: {module}"
        for path in files
        for module in imported(path)
        if module.partition(".")[0] not in sys.stdlib_module_names | {"runtime"}
    }
    assert foreign == set()


CORE = (
    "manager/store",
    "manager/orchestrator",
    "manager/scheduler",
    "manager/allocator",
    "worker/taskmachine",
    "worker/taskmachine.py",
    "worker/network/plan",
    "worker/network/plan.py",
    "proto/swarmapi/model",
)
IMPURE = {"asyncio", "socket", "subprocess", "time", "random", "os", "grpc", "aiohttp", "logging"}


def test_the_core_decides_without_io_clock_or_chance() -> None:
    places = [ROOT / place for place in CORE if (ROOT / place).exists()]
    files = [f for p in places for f in ([p] if p.is_file() else sorted(p.rglob("*.py")))]
    assert len(files) >= 5
    impure = {
        f"{relative(path)}: {module}"
        for path in files
        for module in imported(path)
        if module.partition(".")[0] in IMPURE
    }
    assert impure == set()


def test_what_is_imported_is_declared() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.split(r"[^A-Za-z0-9.]", line)[0] for line in declared}
    modules_of = {"grpcio": "grpc", "protobuf": "google", "PyYAML": "yaml"}
    packages = {modules_of.get(n, n.split(".")[0]) for n in names}
    ours = {package.split("/")[-1] for package in PACKAGES}
    known = packages | ours | sys.stdlib_module_names | {"compression"}  # stdlib from 3.14 on
    undeclared = set()
    for path in sources():
        if path.relative_to(ROOT).parts[0] in ("tests", "deploy"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                modules = [node.module or ""]
            for top in {module.split(".")[0] for module in modules} - known:
                undeclared.add((str(path.relative_to(ROOT)), top))
    # a type checker's own stubs; nothing of that name is imported when it runs
    assert undeclared == {("proto/swarmapi/override.py", "typing_extensions")}
