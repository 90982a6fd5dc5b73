"""The house rules that a machine can check: direction of imports, packaging, file length, no bare except."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {
    "protos": set(),
    "kernels": set(),
    "actors": {"protos", "kernels", "actors"},
    "cluster": {"protos", "kernels", "actors", "cluster"},
}
MAY_IMPORT["kernels"] = {"kernels"}
MAY_IMPORT["protos"] = {"protos"}
# Files that must run and be tested without Ray, gRPC or HTTP.
PLAIN = (
    "actors/round.py",
    "actors/engine.py",
    "actors/verdict.py",
    "actors/sequence.py",
    "actors/session_pool.py",
    "actors/drafter_host.py",
    "actors/ngram.py",
    "actors/suffix.py",
    "actors/model_drafter.py",
    "actors/llama.py",
    "cluster/selector.py",
    "cluster/gamma_ring.py",
    "cluster/normalhedge.py",
    "cluster/policy.py",
    "cluster/policy_mix.py",
    "cluster/learned_policy.py",
    "cluster/learner.py",
    "cluster/bandit.py",
)
EDGES = {"ray", "grpc", "fastapi", "starlette", "uvicorn", "httpx"}
# Processes of light drafters must not load these.
LIGHT = ("actors/ngram.py", "actors/suffix.py", "actors/drafter_host.py", "actors/drafter_server.py")


def sources() -> list[Path]:
    return sorted(
        path
        for folder in (*MAY_IMPORT, "benchmarks", "tests")
        for path in (ROOT / folder).glob("*.py")
        if "_pb2" not in path.name
    )


def imports(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: imports are absolute"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_imports_point_one_way(folder: str) -> None:
    for path in (ROOT / folder).glob("*.py"):
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "paceline":
                assert parts[1] in MAY_IMPORT[folder], f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("name", PLAIN)
def test_core_files_know_nothing_of_the_edges(name: str) -> None:
    assert {name.split(".")[0] for name in imports(ROOT / name)}.isdisjoint(EDGES)


@pytest.mark.parametrize("name", LIGHT)
def test_light_files_do_not_import_heavy_libraries(name: str) -> None:
    roots = {name.split(".")[0] for name in imports(ROOT / name)}
    assert roots.isdisjoint({"torch", "transformers"})


def test_only_actors_that_are_edges_import_serve_or_http() -> None:
    for path in (ROOT / "actors").glob("*.py"):
        for name in imports(path):
            assert not name.startswith("ray.serve"), f"{path.name} imports {name}"
            assert name.split(".")[0] not in {"fastapi", "starlette", "uvicorn"}, f"{path.name} imports {name}"


def test_the_package_list_equals_the_tree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = set(project["tool"]["setuptools"]["packages"])
    found = {
        "paceline." + ".".join(path.parent.relative_to(ROOT).parts)
        for folder in MAY_IMPORT
        for path in (ROOT / folder).rglob("*.py")
    }
    assert listed == found
    assert not (ROOT / "paceline").exists(), "a real paceline/ folder breaks wheels built from the root"


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_short_and_catch_what_they_name(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{path.name}:{node.lineno} has a bare except"
            silent = len(node.body) == 1 and isinstance(node.body[0], ast.Pass)
            broad = isinstance(node.type, ast.Name) and node.type.id in {"Exception", "BaseException"}
            assert not (silent and broad), f"{path.name}:{node.lineno} swallows every error"
    if path.parent.name not in {"tests"} and path.name != "py.typed":
        assert ast.get_docstring(ast.parse(text)), f"{path.name} has no docstring"


def test_the_round_fits_a_screen_or_two() -> None:
    text = (ROOT / "actors/round.py").read_text()
    assert len(text.splitlines()) < 150
    assert not any(word in text for word in ("import ray", "grpc", "http"))


def test_no_file_has_a_catch_all_name() -> None:
    assert not [path for path in sources() if path.stem in {"utils", "common", "helpers", "manager", "misc"}]
