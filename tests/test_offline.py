"""Nothing is fetched and nobody is told: no command looks for the network unless a hub id or an address is named.

Commands run with two guards: a `sitecustomize` that notes and refuses what Python's sockets would connect to or
resolve, which child processes inherit; and, where the system lets us, a network of their own without any interface,
which stops what is no Python too.
"""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from importlib.resources import files as resources
from pathlib import Path

import pytest
import typer

from zhaiju import cli

SAMPLE = resources("zhaiju.starter") / "sample"
SOURCE = Path(__file__).parents[1] / "src"

GUARD = """
import os, socket

LOCAL = ("127.0.0.1", "::1", "localhost") if os.environ["GUARD_LOOPBACK"] == "1" else ()

def refuse(what, host):
    if host not in LOCAL:
        with open(os.environ["GUARD_NOTES"], "a") as notes:
            notes.write(f"{what} {host}\\n")
        raise OSError(101, f"{what} {host}: no network here")

def guarded(name):
    real = getattr(socket.socket, name)

    def call(self, *arguments):
        if self.family != socket.AF_UNIX:
            addresses = [argument for argument in arguments if isinstance(argument, tuple)]
            refuse(name, addresses[0][0] if addresses else "?")
        return real(self, *arguments)

    return call

class Guarded(socket.socket):
    pass

for name in ("connect", "connect_ex", "sendto"):
    setattr(Guarded, name, guarded(name))
socket.socket = Guarded

def resolver(name):
    real = getattr(socket, name)

    def call(host, *arguments, **named):
        refuse(name, host)
        return real(host, *arguments, **named)

    return call

for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex"):
    setattr(socket, name, resolver(name))
"""

# Runs each command of a list in this process, then says what each ended with.
MANY = """
import contextlib, io, json, runpy, sys
from zhaiju import cli
codes = []
for command in json.load(open(sys.argv[1])):
    sys.argv = ["zhaiju", *command]
    output = io.StringIO()
    code = 0
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            runpy.run_module("zhaiju.demo", run_name="__main__") if command == ["demo"] else cli.main()
    except SystemExit as stopped:
        code = stopped.code or 0
    codes.append([command, code, output.getvalue()[-500:]])
print(json.dumps(codes))
"""


@pytest.fixture
def guarded(tmp_path):
    """A function that runs Python under guard: the finished process, and what it tried to reach."""
    (tmp_path / "guard").mkdir()
    (tmp_path / "guard" / "sitecustomize.py").write_text(GUARD, "utf-8")
    notes = tmp_path / "notes.txt"

    def environment(*, loopback=False, **more):
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        return kept | {
            "PYTHONPATH": f"{tmp_path / 'guard'}{os.pathsep}{SOURCE}",
            "GUARD_NOTES": str(notes),
            "GUARD_LOOPBACK": str(int(loopback)),
            "HF_HOME": str(tmp_path / "hub"),
            "OMP_NUM_THREADS": "1",
            **more,
        }

    def run(*arguments, **more):
        done = subprocess.run(
            [*cut_off(), sys.executable, *map(str, arguments)],
            env=environment(**more),
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=1200,
            check=False,
        )
        return done, tried()

    def tried():
        return notes.read_text("utf-8").splitlines() if notes.exists() else []

    run.environment = environment
    run.tried = tried
    return run


def cut_off():
    """How to start a process in a network without interfaces; nothing where that is not allowed."""
    alone = ["unshare", "--map-root-user", "--net"]
    try:
        return alone if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode == 0 else []
    except FileNotFoundError:
        return []


def test_the_guards_do_guard(guarded):
    code = "import {0}\ntry:\n    {1}\nexcept OSError as error:\n    print('refused', error)"
    for module, call in (
        ("urllib.request", "urllib.request.urlopen('http://192.0.2.1/', timeout=5)"),
        ("socket", "socket.create_connection(('example.org', 80), timeout=5)"),
        ("socket", "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))"),
        ("asyncio", "asyncio.run(asyncio.open_connection('192.0.2.1', 80))"),
    ):
        done, _ = guarded("-c", code.format(module, call))
        assert done.stdout.startswith("refused"), done.stderr
    assert [line.split()[1] for line in guarded.tried()] == ["192.0.2.1", "example.org", "192.0.2.1", "192.0.2.1"]


@pytest.mark.slow
def test_importing_connects_to_nothing(guarded):
    names = sorted(
        ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        for path in (SOURCE / "zhaiju").rglob("*.py")
        if path.name != "__init__.py" and "peers" not in path.parts
    )
    done, tried = guarded("-W", "ignore", "-c", "".join(f"import {name}\n" for name in names))
    assert (done.returncode, tried) == (0, []), done.stderr


def test_help_connects_to_nothing(guarded, tmp_path):
    commands = typer.main.get_command(cli.app).commands
    assert {"ask", "index", "train", "serve"} <= set(commands)
    wanted = [[name, "--help"] for name in commands] + [["train", task, "--help"] for task in ("select", "read")]
    told, tried = many(guarded, tmp_path, wanted)
    assert tried == []
    assert [entry for entry in told if entry[1]] == []


def many(guarded, folder, commands):
    """Run commands one after another; each with its exit code and the end of what it said, and what was tried."""
    (folder / "commands.json").write_text(
        json.dumps([[str(part) for part in command] for command in commands]), "utf-8"
    )
    done, tried = guarded("-W", "ignore", "-c", MANY, folder / "commands.json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), tried


@pytest.mark.slow
def test_working_connects_to_nothing(guarded, tmp_path):
    """From documents to answers and from data to an exported model, with what comes with zhaiju alone."""
    for source, target in {"train": "train", "held_out": "public", "context": "context"}.items():
        (tmp_path / f"{target}.json").write_bytes((SAMPLE / f"{source}.json").read_bytes())
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.md").write_text("# 河邊\n\n林師傅在河邊修船。\n", "utf-8")
    small = ["--scratch", "--max-steps", "3", "--layers", "1", "--hidden", "16", "--heads", "2", "--threads", "1"]
    data = ["--train", "train.json", "--dev", "public.json"]
    commands = [
        ["demo"],
        ["ask", "誰在修船？", "notes"],
        ["check", "train.json", "public.json"],
        ["train", "select", *data, *small, "-o", "select"],
        ["train", "read", *data, *small, "-o", "read"],
        ["evaluate", "read", "public.json"],
        ["predict", "read", "public.json", "-o", "predicted.json"],
        ["answer", "context.json", "public.json", "--reader", "read", "--selector", "select", "-o", "answers.json"],
        ["score", "public.json", "answers.json"],
        ["calibrate", "read", "public.json", "-o", "reliability"],
        ["curves", "read", "-o", "curves"],
        ["compare", "read"],
        ["tokens", "林師傅", "--encoder", "read"],
    ]
    for module, more in (
        (
            "lancedb",
            [
                ["index", "notes", "-o", "notes.index"],
                ["ask", "誰在修船？", "--index", "notes.index"],
                ["index", "-o", "notes.index", "--list"],
            ],
        ),
        ("onnx", [["export", "read", "-o", "exported"], ["evaluate", "exported", "public.json", "--backend", "onnx"]]),
    ):
        try:
            __import__(module)
        except ImportError:
            continue
        commands += more
    told, tried = many(guarded, tmp_path, commands)
    assert tried == []
    assert [entry for entry in told if entry[1]] == []


@pytest.mark.slow
def test_the_service_connects_to_nothing(guarded):
    pytest.importorskip("fastapi")
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "zhaiju.cli", "serve", "--port", "0"],
        env=guarded.environment(loopback=True),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        address = next(found[0] for line in process.stderr if (found := re.search(r"http://127\.0\.0\.1:\d+", line)))
        asked = json.dumps({"question": "誰在河邊修船？", "contexts": ["林師傅在河邊修船。"]}).encode()
        request = urllib.request.Request(f"{address}/v1/answer", asked, {"Content-Type": "application/json"})
        for wanted in (request, f"{address}/openapi.json", f"{address}/metrics", f"{address}/readyz"):
            with urllib.request.urlopen(wanted, timeout=120) as response:
                assert response.status == 200
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=120)
    assert guarded.tried() == []


def test_a_hub_id_offline_is_one_line_at_once(guarded, tmp_path):
    (tmp_path / "a.md").write_text("林師傅在河邊修船。\n", "utf-8")
    for name in ("train.json", "context.json"):
        (tmp_path / name).write_bytes((SAMPLE / name).read_bytes())
    hub = "nobody/nothing-of-that-name"
    for command in (
        ["ask", "誰？", "a.md", "--reader", hub],
        ["index", "a.md", "-o", "x.index", "--embedder", hub],
        ["tokens", "誰", "--encoder", hub],
        ["train", "read", "--encoder", hub, "--train", "train.json", "-o", "run"],
        ["evaluate", hub, "train.json", "--task", "read"],
    ):
        done, tried = guarded("-W", "ignore", "-m", "zhaiju.cli", *command, HF_HUB_OFFLINE="1")
        assert (done.returncode, done.stdout, tried) == (2, "", []), (command, done.stderr)
        *before, last = done.stderr.splitlines()  # train first says how much data it has read
        assert last.startswith(f"zhaiju: cannot load {hub}: ")
        assert not [line for line in before if not line.startswith("read: 230 training and 30 dev examples")]
