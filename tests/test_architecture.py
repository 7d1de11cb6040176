import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

import zhaiju
import zhaiju.errors

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "zhaiju"
LAYERS = [
    "errors",
    "files",
    "threads",
    "data",
    "config",
    "tasks",
    "modeling",
    "inference",
    "training",
    "corpus",
    "api",
    "integrations",
    "scale",
    "ui",
    "service",
    "cli",
    "demo",
    "__main__",
]


def _layer(module):
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "zhaiju"


def _imports(path):
    """Modules of zhaiju that a file imports at run time, those inside functions included."""
    tree = ast.parse(path.read_text("utf-8"))
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and getattr(block.test, "id", "") == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("zhaiju"):
            names = [f"zhaiju.{alias.name}" for alias in node.names] if node.module == "zhaiju" else [node.module]
            yield from names
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("zhaiju"))


def test_imports_point_one_way():
    wrong = []
    for path in SOURCE.rglob("*.py"):
        relative = path.relative_to(SOURCE)
        own = relative.parts[0].removesuffix(".py")
        if own in ("__init__", "starter"):
            continue
        for module in _imports(path):
            other = _layer(module)
            if other != own and LAYERS.index(other) >= LAYERS.index(own):
                wrong.append(f"{relative} imports {module}")
    assert not wrong


def test_every_module_belongs_to_a_layer():
    names = {path.name.removesuffix(".py") for path in SOURCE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert names - {"__init__", "__pycache__", "starter"} == set(LAYERS)


def test_public_names_are_these():
    assert zhaiju.__all__ == [
        "CheckpointError",
        "ConfigError",
        "DataError",
        "OutputError",
        "TrainingError",
        "ZhaijuError",
        "__version__",
        "load",
    ]
    assert all(hasattr(zhaiju, name) for name in zhaiju.__all__)


def test_the_error_tree_in_the_docstring_is_the_tree():
    errors = [
        value for value in vars(zhaiju.errors).values() if isinstance(value, type) and issubclass(value, Exception)
    ]
    assert all(issubclass(error, zhaiju.ZhaijuError) for error in errors)
    assert all(error.__name__ in (zhaiju.errors.__doc__ or "") for error in errors)


@pytest.mark.parametrize(
    "command", [["-c", "import zhaiju"], ["-m", "zhaiju.cli", "--help"], ["-m", "zhaiju.cli", "train", "--help"]]
)
def test_importing_and_help_do_not_load_torch_or_transformers(command):
    code = "import sys, runpy; sys.argv = ['zhaiju', *sys.argv[1:]]\n"
    if command[0] == "-c":
        code += command[1]
        arguments = []
    else:
        code += "try: runpy.run_module('zhaiju.cli', run_name='__main__')\nexcept SystemExit as e: assert not e.code"
        arguments = command[2:]
    code += "\nassert not {'torch', 'transformers', 'opencc', 'rjieba'} & set(sys.modules), 'loaded'"
    began = time.perf_counter()
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert time.perf_counter() - began < 30  # a hang, not a speed


def test_only_the_command_line_prints():
    printing = [
        f"{path.relative_to(SOURCE)}:{node.lineno}"
        for path in SOURCE.rglob("*.py")
        if path.name not in ("cli.py", "ui.py", "demo.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
    ]
    assert not printing
