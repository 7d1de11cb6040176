"""Accidents under the command line: no room, no right to write, no memory, a clock set back, dead workers, signals.

What is promised is the same everywhere: one clear line, exit code 2 or that of the signal, what was there stays,
nothing is half written, and once the cause is gone the same command does what it would have done.

Where this process may mount file systems, the full disk is one and what may not be written is mounted so; elsewhere the
kernel's limit of a file's size and the folder's mode take their place.
"""

import errno
import json
import os
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest

import kills
from test_kills import SAMPLE, content, make_checkpoint, write_documents
from zhaiju import files
from zhaiju.corpus.index import Index
from zhaiju.training.run import read_metrics

CONTEXT, QUESTIONS = SAMPLE / "context.json", SAMPLE / "held_out.json"
TRAINING = {
    "layers": 1, "hidden": 16, "heads": 2, "intermediate": 32, "positions": 96, "window": 96, "overlap": 16,
    "lr": 0.01, "max-steps": 6, "batch-tokens": 2048, "batch-size": 4, "eval-every": 3, "save-every": 2, "threads": 1,
}  # fmt: skip


NAMES = [
    *("predict", "parts", "answer", "evaluate", "calibrate", "index", "train"),
    pytest.param("export", marks=pytest.mark.slow),
]


def training(run, **changes):
    flags = [part for name, value in (TRAINING | changes).items() for part in (f"--{name}", value)]
    data = ["--train", QUESTIONS, "--dev", QUESTIONS, "--context", CONTEXT]
    return ["train", "read", "--scratch", "-o", run, *data, *flags]


def commands(output, model, documents):
    """Of each name a command that writes `output`, and what it writes."""
    judged = [QUESTIONS, "--context", CONTEXT]
    return {
        "predict": (["predict", model, *judged, "-o", output / "p.json"], output / "p.json"),
        "parts": (
            ["predict", model, *judged, "-o", f"{output / 'parts'}/", "--part-rows", "40"],
            output / "parts",
        ),
        "answer": (["answer", CONTEXT, QUESTIONS, "--reader", model, "-o", output / "s.csv"], output / "s.csv"),
        "evaluate": (["evaluate", model, *judged, "--details", output / "d.jsonl"], output / "d.jsonl"),
        "calibrate": (["calibrate", output / "model", *judged], output / "model"),
        "export": (["export", model, "-o", output / "exported"], output / "exported"),
        "index": (["index", documents, "-o", output / "i.index"], output / "i.index"),
        "train": (training(output / "run"), output / "run"),
    }


def state(path):
    """What a later command would find: of a run its weights and figures."""
    if (path / "metrics.jsonl").is_file():
        weights = (path / "last" / "model.safetensors").read_bytes()
        return weights, [{k: v for k, v in entry.items() if k != "seconds"} for entry in read_metrics(path)]
    return content(path)


def left_overs(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.tmp"))


def may_mount(folder):
    return mounted(folder, "-t", "tmpfs", "-o", "size=64k", "none") and not subprocess.call(["umount", folder])


def mounted(folder, *how):
    with suppress(FileNotFoundError):
        return not subprocess.run(["mount", *how, str(folder)], capture_output=True, check=False).returncode
    return False


@pytest.fixture(scope="module")
def mounts(tmp_path_factory):
    return may_mount(tmp_path_factory.mktemp("mount"))


class Disk:
    """A file system of 4 MiB that can be filled, or a folder in which no file may become large."""

    def __init__(self, folder, mounts):
        self.folder, self.mounts = folder, mounts
        self.reason = os.strerror(errno.ENOSPC if mounts else errno.EFBIG)

    @contextmanager
    def full(self, room=0, most=1024):
        """Leave only so many bytes; or let no file have more than `most`, which must be enough for what is told."""
        if not self.mounts:
            before = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
            try:
                yield
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)
            return
        filler = self.folder / "filler"
        free = os.statvfs(self.folder)
        with filler.open("wb") as stream:
            os.posix_fallocate(stream.fileno(), 0, free.f_bavail * free.f_bsize - room)
        yield
        filler.unlink()


@pytest.fixture
def disk(tmp_path, mounts):
    folder = tmp_path / "disk"
    folder.mkdir()
    if mounts:
        assert mounted(folder, "-t", "tmpfs", "-o", "size=4m", "none")
    try:
        yield Disk(folder, mounts)
    finally:
        if mounts:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def sealed(folder, mounts):
    """Keep everyone, root too, from writing into a folder."""
    if mounts:
        assert mounted(folder, "--bind", str(folder))
        assert mounted(folder, "-o", "remount,bind,ro")
    else:
        for path in (folder, *folder.rglob("*")):
            path.chmod(path.stat().st_mode & ~0o222)
        if os.access(folder, os.W_OK):
            pytest.skip("root that may not mount cannot be kept from writing")
    try:
        yield
    finally:
        if mounts:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
        else:
            for path in (folder, *folder.rglob("*")):
                path.chmod(path.stat().st_mode | 0o200)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("tiny") / "read")


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    return write_documents(tmp_path_factory.mktemp("documents"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory, model, documents):
    """What each command writes where nothing happens, made when it is first asked for."""
    folder, known = tmp_path_factory.mktemp("whole"), {}

    def made(name, run):
        if name not in known:
            (folder / name).mkdir()
            prepare(name, folder / name, model)
            command, path = commands(folder / name, model, documents)[name]
            code, _, err = run(*command)
            assert code == 0, err
            known[name] = state(path)
        return known[name]

    return made


def prepare(name, folder, model):
    if name == "calibrate":
        shutil.copytree(model, folder / "model")


def refused(found, *told):
    """The one line of an error."""
    code, out, err = found
    assert code == 2, err
    assert not out
    assert "Traceback" not in err
    said = [line for line in err.splitlines() if line.startswith("zhaiju: ")]
    assert len(said) == 1, err
    assert err.endswith(f"{said[0]}\n")
    for words in told:
        assert str(words) in said[0]


# Bytes that are left, for what comes before the file that does not fit; and the most of a file where that is limited.
ROOM = {"export": 50_000, "train": 50_000, "parts": 8_192, "index": 8_192}
MOST = {"export": 50_000, "train": 50_000, "parts": 2_000, "index": 8_192, "calibrate": 300}


@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk_is_one_line_and_with_room_again_the_same_command_succeeds(
    run,
    disk,
    whole,
    model,
    documents,
    name,
):
    prepare(name, disk.folder, model)
    command, path = commands(disk.folder, model, documents)[name]
    old = None
    if name in ("predict", "answer", "evaluate"):
        path.write_text("old")
    elif name == "index":
        Index.open(str(path), create=True)
    if path.exists():
        old = state(path)
    with disk.full(ROOM.get(name, 0), MOST.get(name, 1024)):
        refused(run(*command), f"cannot write {path}", disk.reason)
        if name in ("parts", "train"):
            assert not (path / "_SUCCESS").exists()
            assert not (path / "last").exists()
        else:
            assert (state(path) if path.exists() else None) == old
        assert not left_overs(disk.folder)
    code, _, err = run(*command)
    assert code == 0, err
    assert state(path) == whole(name, run)
    assert not left_overs(disk.folder)


def test_standard_output_that_takes_no_more_is_one_line():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "zhaiju", "tokens", "兩河文明"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (
        2,
        f"zhaiju: cannot write to standard output: {os.strerror(errno.ENOSPC)}\n",
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_read_only_folder_is_one_line_and_nothing_changes(
    run,
    whole,
    mounts,
    model,
    documents,
    tmp_path,
    name,
):
    folder = tmp_path / "sealed"
    folder.mkdir()
    prepare(name, folder, model)
    command, path = commands(folder, model, documents)[name]
    if name == "index":
        Index.open(str(path), create=True)
    before = sorted(folder.rglob("*"))
    with sealed(folder, mounts):
        refused(run(*command), f"cannot write {path}", os.strerror(errno.EROFS if mounts else errno.EACCES))
    assert sorted(folder.rglob("*")) == before
    code, _, err = run(*command)
    assert code == 0, err
    assert state(path) == whole(name, run)


def test_an_index_that_is_read_only_is_asked_and_not_changed(run, mounts, tmp_path, documents):
    assert run("index", documents, "-o", tmp_path / "i.index")[0] == 0
    with sealed(tmp_path / "i.index", mounts):
        code, out, err = run("ask", "修船要幾天？", "--index", tmp_path / "i.index", "--json")
        assert code == 0, err
        assert json.loads(out)["quotes"]
        refused(run("index", documents, "-o", tmp_path / "i.index"), f"cannot write {tmp_path / 'i.index'}")


# --- no memory

# The command, with no more memory than it has when the first batch is computed, and a little.
STARVED = """
import resource, sys
from zhaiju import cli
from zhaiju.inference.engine import Engine
from zhaiju.training.loop import Loop

def starving(call):
    def starved(*args, **kwargs):
        with open("/proc/self/statm") as stream:
            most = int(stream.read().split()[0]) * resource.getpagesize() + (48 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        return call(*args, **kwargs)
    return starved

for owner, name in ((Engine, "run"), (Loop, "_take_step")):
    setattr(owner, name, starving(getattr(owner, name)))
cli.main()
"""


@pytest.fixture(scope="module")
def long_questions(tmp_path_factory):
    """Of paragraphs that fill windows, so that a batch may be as large as it is allowed."""
    rows = [
        {
            "id": str(number),
            "question": "誰？",
            "context": f"{number}" + "老王在河邊修船。" * 60,
            "answers": [{"text": "老王", "start": len(str(number))}],
        }
        for number in range(300)
    ]
    path = tmp_path_factory.mktemp("long") / "q.json"
    path.write_text(json.dumps(rows), "utf-8")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torch", "onnx", "openvino", "evaluate", "train"])
def test_no_memory_is_one_line_that_names_what_takes_less(model, long_questions, tmp_path, name):
    large = ["--batch-tokens", 2_000_000]
    found = {
        "torch": ["predict", model, long_questions, "-o", tmp_path / "p.json", "--window", 96],
        "onnx": ["predict", "starter", long_questions, "-o", tmp_path / "p.json", "--backend", "onnx"],
        "openvino": ["predict", model, long_questions, "-o", tmp_path / "p.json", "--backend", "openvino"],
        "evaluate": ["evaluate", model, long_questions, "--details", tmp_path / "d.jsonl"],
        "train": training(tmp_path / "run", train=long_questions, **{"batch-tokens": 2_000_000, "batch-size": 300}),
    }[name]
    command = [sys.executable, "-c", STARVED, *map(str, found + (large if name != "train" else []))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if name == "openvino" and done.returncode == -signal.SIGABRT:  # it takes all in small pieces, and Rust's next fails
        assert not (tmp_path / "p.json").exists()
        return
    refused((done.returncode, done.stdout, done.stderr), "zhaiju: out of memory; try smaller --batch-tokens")
    assert not left_overs(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == (["run"] if name == "train" else [])
    if name == "train":
        assert not (tmp_path / "run" / "last").exists()


# --- the clock

# Between every program and the system's clock: a year back as soon as the file is there that CLOCK_BACK names.
CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long back(void) {
    const char *flag = getenv("CLOCK_BACK");
    return flag && !access(flag, F_OK) ? 365L * 24 * 3600 : 0;
}
int clock_gettime(clockid_t id, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int code = real(id, now);
    if (!code && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) now->tv_sec -= back();
    return code;
}
int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *now) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (now) *now = exact.tv_sec;
    return exact.tv_sec;
}
"""


@pytest.fixture(scope="module")
def clock(tmp_path_factory):
    """The environment of a child whose clock goes back by a year, and the file that makes it do so."""
    folder = tmp_path_factory.mktemp("clock")
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler, to stand between programs and the clock")
    (folder / "clock.c").write_text(CLOCK)
    library = folder / "clock.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, folder / "clock.c", "-ldl"], check=True)
    back = folder / "back"
    environment = {**os.environ, "LD_PRELOAD": str(library), "CLOCK_BACK": str(back)}
    code = "import time; print(time.time())"
    before = float(subprocess.check_output([sys.executable, "-c", code], env=environment))
    back.touch()
    if before - float(subprocess.check_output([sys.executable, "-c", code], env=environment)) < 300 * 24 * 3600:
        pytest.skip("this system's programs do not ask a library for the time")
    back.unlink()
    yield environment, back
    back.unlink(missing_ok=True)


def zhaiju(command, **how):
    return subprocess.run(
        [sys.executable, "-m", "zhaiju", *map(str, command)], capture_output=True, text=True, check=False, **how
    )


@pytest.mark.slow
def test_a_clock_set_back_while_a_training_runs_and_before_it_goes_on_changes_nothing(run, clock, whole, tmp_path):
    environment, back = clock
    back.unlink(missing_ok=True)
    with subprocess.Popen(
        [sys.executable, "-m", "zhaiju", *map(str, training(tmp_path / "run"))], env=environment, stderr=subprocess.PIPE
    ) as process:
        while process.poll() is None and lines(tmp_path / "run") < 3:
            time.sleep(0.005)
        back.touch()
        process.send_signal(signal.SIGTERM)
        said = process.communicate()[1]
    assert process.returncode in (0, 130), said
    assert json.loads((tmp_path / "run" / "environment.json").read_text("utf-8"))["date"]
    done = zhaiju(training(tmp_path / "run"), env=environment)
    assert done.returncode == 0, done.stderr
    assert state(tmp_path / "run") == whole("train", run)
    assert not left_overs(tmp_path)


def lines(run):
    path = run / "metrics.jsonl"
    return path.read_text("utf-8").count("\n") if path.is_file() else 0


@pytest.mark.slow
def test_an_index_follows_documents_by_their_content_whatever_clock_and_file_times_say(clock, documents, tmp_path):
    environment, back = clock
    back.unlink(missing_ok=True)
    folder, index = tmp_path / "documents", tmp_path / "i.index"
    shutil.copytree(documents, folder)
    assert zhaiju(["index", folder, "-o", index], env=environment).returncode == 0
    back.touch()
    changed, kept = folder / "0.txt", folder / "1.txt"
    times = changed.stat()
    changed.write_text("老王在河邊修船，要七天。", "utf-8")
    os.utime(changed, ns=(times.st_atime_ns, times.st_mtime_ns))  # as if it had not been written
    os.utime(kept, (1 << 33, 1 << 33))  # in the year 2242
    (folder / "2.txt").unlink()
    done = zhaiju(["index", folder, "-o", index, "--json"], env=environment)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["added"], report["changed"], report["removed"], report["failed"]) == (0, 1, 1, 0)
    opened = Index.open(str(index))
    assert [paragraph.text for paragraph in opened.paragraphs(str(changed))] == ["老王在河邊修船，要七天。"]
    assert opened.is_optimised
    back.unlink()
    assert json.loads(zhaiju(["index", folder, "-o", index, "--json"]).stdout)["unchanged"] == len(os.listdir(folder))


@contextmanager
def serving(command, environment):
    """A service at a free port: its process, and its address once it listens."""
    with subprocess.Popen(
        [sys.executable, "-m", "zhaiju", *map(str, command), "--port", "0"],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            told = ""
            while "http://" not in told:
                told = process.stderr.readline()
                assert told, "it did not start"
            yield process, re.search(r"http://[^/, ]+", told)[0]
        finally:
            process.kill()


@pytest.mark.slow
def test_a_service_goes_on_answering_and_a_file_of_labels_taking_them_when_the_clock_goes_back(clock, tmp_path):
    environment, back = clock
    back.unlink(missing_ok=True)
    read = {"question": "誰在修船？", "context": "老王在河邊修船。"}
    (tmp_path / "a.txt").write_text(read["context"], "utf-8")
    with serving(["serve", "--rate", 2, "--burst", 2, "--deadline", 5], environment) as (
        process,
        address,
    ):
        wanted = httpx.post(f"{address}/v1/read", json=read, timeout=30).json()
        back.touch()
        for _ in range(3):  # its pace is by another clock
            time.sleep(0.6)
            found = httpx.post(f"{address}/v1/read", json=read, timeout=30)
            assert (found.status_code, found.json()) == (200, wanted)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    back.unlink()
    labels = tmp_path / "labels.json"
    with serving(["label", tmp_path / "a.txt", "-o", labels], environment) as (process, address):
        for name in "ab":
            label = {"paragraph": 0, "question": read["question"], "answers": [{"start": 0, "end": 2}]}
            assert httpx.put(f"{address}/v1/labels/{name}", json=label, timeout=30).status_code == 200
            back.touch()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    (article,) = json.loads(labels.read_text("utf-8"))["data"]
    assert [qa["id"] for qa in article["paragraphs"][0]["qas"]] == ["a", "b"]


# --- signals


SIGNALS = [  # predict has its own, in test_streaming.py
    ("answer", signal.SIGINT),
    ("evaluate", signal.SIGTERM),
    ("index", signal.SIGINT),
    ("export", signal.SIGTERM),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "number"), SIGNALS)
def test_a_signal_at_a_random_moment_is_one_line_and_the_same_command_gives_the_same(
    run, whole, model, documents, tmp_path, name, number
):
    folder = tmp_path / "stopped"
    folder.mkdir()
    prepare(name, folder, model)
    command, path = commands(folder, model, documents)[name]
    expected, old = whole(name, run), state(path) if path.exists() else None
    command = [sys.executable, "-m", "zhaiju", *map(str, command)]
    chance = random.Random(f"{name} {number}")
    told = {signal.SIGINT: "zhaiju: interrupted", signal.SIGTERM: "zhaiju: terminated"}[number]
    stopped = 0
    for _ in range(kills.count(1)):
        if name in ("export", "index"):
            shutil.rmtree(path, ignore_errors=True)
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            wait(process, folder, chance)
            process.send_signal(number)
            out, err = process.communicate(timeout=300)
        assert "Traceback" not in err, err
        found = state(path) if path.exists() else None
        if process.returncode == 0:  # it was too late
            assert found == expected
            continue
        stopped += 1
        assert (process.returncode, out) == (128 + number, ""), err
        assert [line for line in err.splitlines() if line.startswith("zhaiju: ")] == [told]
        assert found in (old, expected, None) or (name == "index" and found.items() <= expected.items())
        assert not left_overs(folder)
    assert stopped
    if name == "export":
        shutil.rmtree(path, ignore_errors=True)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert state(path) == expected


def wait(process, folder, chance):
    """Until a process has loaded a random share of what it needs, or for a random time from when it writes.

    Not for a time from its start, which depends on what else is computed here.
    """
    before, writes = set(folder.iterdir()), chance.random() < 0.5
    loaded = chance.uniform(45, 300) * 2**20
    with suppress(psutil.NoSuchProcess):
        while process.poll() is None:
            if set(folder.rglob("*.tmp")) or set(folder.iterdir()) != before:
                time.sleep(chance.random() * 0.3)
                return
            if not writes and psutil.Process(process.pid).memory_info().rss > loaded:
                return
            time.sleep(0.005)


# --- workers


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_of_a_training_ends_the_others_with_one_line_and_the_run_goes_on(tmp_path, victim):
    run = tmp_path / "run"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    steps = {"max-steps": 60, "dropout": 0}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port)]
    command = [*launcher, "-m", "zhaiju", *map(str, training(run, **steps))]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and lines(run) < 8:
            time.sleep(0.005)
        ranks = {}
        for child in psutil.Process(process.pid).children():
            ranks[child.environ().get("RANK")] = child
        ranks[str(victim)].kill()
        _, err = process.communicate(timeout=300)
    assert process.returncode != 0
    said = [line for line in err.splitlines() if "zhaiju: " in line]
    assert len(said) == 1, err
    assert "another process of this training has ended" in said[0]
    assert f"the same command goes on from the last save in {run}" in said[0]
    own = str(Path(files.__file__).parent)  # the launcher's own traceback may lie in a folder of any name
    assert own not in "".join(line for line in err.splitlines() if line.lstrip().startswith("File "))
    done = zhaiju(training(run, **steps))
    assert done.returncode == 0, done.stderr
    assert "going on after step" in done.stderr
    assert [entry["step"] for entry in read_metrics(run) if entry["event"] == "step"] == list(range(1, 61))
    assert not left_overs(run)
