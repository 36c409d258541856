"""No program that we start gets our environment, where passwords and keys may stand, unless it is one of a few."""

import ast
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from keepwell import command
from keepwell.command import Command
from keepwell.postgres import isolation

ROOT = Path(__file__).parent.parent.parent
SOURCES = [
    path for folder in ("keepwell", "flows", "tasks", "deployments", "sample") for path in (ROOT / folder).rglob("*.py")
]
STARTERS = {
    *(("subprocess", name) for name in ("run", "Popen", "call", "check_call", "check_output", "getoutput")),
    *(("os", name) for name in ("system", "popen", "posix_spawn", "posix_spawnp")),
    *(("os", f"{verb}{how}") for verb in ("exec", "spawn") for how in ("l", "le", "lp", "lpe", "v", "ve", "vp", "vpe")),
    *(("asyncio", name) for name in ("create_subprocess_exec", "create_subprocess_shell")),
    ("pty", "spawn"),
}
# Also named where nothing is started, in annotations.
TYPES = {("subprocess", "Popen")}
# Where a function hands on the environment that it has, and why it must.
OTHER_HALF = "the console's other half, asked for by the operator: the same program in another process, or in our place"
AS_TYPED = "a demonstration types the console's commands, as an operator would; what it prepares for them is its own"
HANDED_ON = {
    ("keepwell/cli/stack.py", "_run"): OTHER_HALF,
    ("keepwell/cli/serve.py", "serve"): OTHER_HALF,
    ("keepwell/cli/upgrade.py", "upgrade"): OTHER_HALF,
    ("deployments/production/compose/roles.py", "become"): "a container's program in our place, with what it was given",
    ("deployments/local/story.py", "_run"): AS_TYPED,
    ("deployments/local/install_demo.py", "install_and_isolate"): AS_TYPED,
    ("deployments/local/install_demo.py", "_install_missing"): AS_TYPED,
    ("deployments/local/install_demo.py", "main"): AS_TYPED,
    ("deployments/local/install_demo.py", "_isolate"): AS_TYPED,
    ("deployments/local/install_demo.py", "_run"): AS_TYPED,
}


def starts(tree: ast.AST) -> Iterator[tuple[ast.Call | None, str]]:
    """Each call that starts a program, with the function it stands in; None where the starter is only handed on."""
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            calls = {call.func: call for call in ast.walk(function) if isinstance(call, ast.Call)}
            for node in ast.walk(function):
                if isinstance(node, ast.Attribute) and named(node) in STARTERS - TYPES:
                    yield calls.get(node), function.name
                elif node in calls and named(node) in TYPES:
                    yield calls[node], function.name


def named(function: ast.expr) -> tuple[str, str] | None:
    if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
        return function.value.id, function.attr
    return None


def gives_ours(call: ast.Call | None) -> bool:
    """Whether the program gets our environment: none is chosen, or what is chosen begins with all of ours."""
    if call is None:
        return True
    where = named(call.func)
    assert where is not None
    chosen = next((keyword.value for keyword in call.keywords if keyword.arg == "env"), None)
    if where[0] == "os" and where[1].endswith("e"):
        chosen = call.args[-1]
    if chosen is None or (isinstance(chosen, ast.Constant) and chosen.value is None):
        return True
    chosen_text = ast.unparse(chosen)
    return "os.environ" in chosen_text.replace("os.environ.get(", "") or chosen_text == "environment"


def test_every_program_gets_an_environment_of_its_own_but_for_a_few_that_say_why() -> None:
    found = {
        (str(path.relative_to(ROOT)), function)
        for path in SOURCES
        for call, function in starts(ast.parse(path.read_text(encoding="utf-8")))
        if gives_ours(call)
    }
    assert found == set(HANDED_ON)


def test_nobody_starts_programs_by_another_name() -> None:
    """`from subprocess import run` would pass the search above."""
    modules = {module for module, _ in STARTERS}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                taken = {(node.module or "", alias.name) for alias in node.names}
                assert not taken & STARTERS, path
            if isinstance(node, ast.Import):
                assert not [alias for alias in node.names if alias.name in modules and alias.asname], path


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("subprocess.run(['a'])", True),
        ("subprocess.Popen(['a'], env=None)", True),
        ("subprocess.run(['a'], env=os.environ | {'B': '1'})", True),
        ("subprocess.run(['a'], env={**os.environ})", True),
        ("os.execv('a', ['a'])", True),
        ("stack.callback(subprocess.run, ['a'])", True),
        ("os.execve('a', ['a'], os.environ)", True),
        ("subprocess.run(['a'], env=clean_environment())", False),
        ("subprocess.run(['a'], env={'PATH': os.environ.get('PATH', '')})", False),
        ("os.execve('a', ['a'], clean())", False),
    ],
)
def test_the_search_finds_what_it_should(source: str, expected: bool) -> None:
    ((call, _),) = starts(ast.parse(f"def f():\n    {source}"))
    assert gives_ours(call) is expected


SECRETS = {
    "KEEPWELL_DATABASE__PASSWORD": "marked-secret-1",
    "KEEPWELL_SEALING__IDENTITIES": '["marked-secret-2"]',
    "PREFECT_API_AUTH_STRING": "admin:marked-secret-3",
    "AWS_SECRET_ACCESS_KEY": "marked-secret-4",
    "PGPASSWORD": "marked-secret-5",
    "HTTPS_PROXY": "http://user:marked-secret-6@proxy.example",
}


@pytest.fixture
def secrets_around(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)


def test_a_child_sees_no_secret_of_ours_and_what_it_was_given(secrets_around: None) -> None:
    said = command.run(Command((sys.executable, "-c", "import os; print(dict(os.environ))"), {"PGPASSWORD": "its own"}))
    assert b"marked-secret" not in said
    assert b"'PGPASSWORD': 'its own'" in said


def test_a_child_that_stands_back_sees_none_either(secrets_around: None) -> None:
    assert b"marked-secret" not in command.run(Command(("cat", "/proc/self/environ")).standing_back(5))


def test_a_trial_of_the_machine_sees_no_secret_of_ours(secrets_around: None, tmp_path: Path) -> None:
    left = tmp_path / "environment"
    assert command.succeeds(("sh", "-c", f"env > {left}"))
    assert "marked-secret" not in left.read_text()
    assert "PATH=" in left.read_text()


def test_the_probes_of_isolation_see_no_secret_of_ours(
    secrets_around: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = tmp_path / "seen"
    spy = tmp_path / "spy"
    spy.write_text(f'#!/bin/sh\nenv >> {seen}\nexec "$@"\n')
    spy.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    isolation._works.cache_clear()
    assert isolation._works(("spy",))
    assert isolation._runs(("spy",), "true", tmp_path) in (True, False)
    assert "marked-secret" not in seen.read_text()
