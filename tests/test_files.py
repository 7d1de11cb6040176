import json
import os
import stat
import subprocess
import sys
from contextlib import contextmanager

import pytest

from zhaiju.errors import OutputError
from zhaiju.files import (
    atomic_directory,
    atomic_object,
    atomic_open,
    fingerprint,
    point,
    read_json,
    read_small,
    write_json,
    write_text,
)


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def test_file_appears_whole_with_the_usual_rights_and_nothing_beside_it(tmp_path):
    path = tmp_path / "new" / "deep" / "out.txt"
    write_text(path, "行一\n行二\n")
    assert path.read_bytes() == "行一\n行二\n".encode()
    assert names(path.parent) == ["out.txt"]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_nothing_is_under_the_name_before_the_end(tmp_path):
    path = tmp_path / "out.txt"
    with atomic_open(path) as stream:
        stream.write("half")
        stream.flush()
        assert not path.exists()
    assert path.read_text() == "half"


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt(), SystemExit(1)])
def test_old_file_stays_when_the_writer_raises(tmp_path, error):
    path = tmp_path / "out.txt"
    write_text(path, "old")

    def write():
        with atomic_open(path) as stream:
            stream.write("new")
            raise error

    with pytest.raises(type(error)):
        write()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["out.txt"]


# Writes without end, and says when it has begun.
WRITING = """
import sys, time
from pathlib import Path
from zhaiju import files

def go(stream_or_folder):
    print("begun", flush=True)
    time.sleep(60)

path = Path(sys.argv[2])
if sys.argv[1] == "file":
    with files.atomic_open(path) as stream:
        go(stream)
else:
    files.atomic_directory(path, go)
"""


@contextmanager
def writer(kind, path):
    process = subprocess.Popen([sys.executable, "-c", WRITING, kind, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "begun\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_what_a_killed_writer_left_is_removed_by_the_next_and_what_a_living_one_writes_is_not(tmp_path, kind):
    path = tmp_path / "o[u]t"
    with writer(kind, path) as killed:
        killed.kill()
        killed.wait()
        (left,) = names(tmp_path)
        with writer(kind, path):
            (living,) = names(tmp_path)
            assert living != left
            write_text(path, "new") if kind == "file" else atomic_directory(path, lambda folder: None)
            assert names(tmp_path) == [living, "o[u]t"]


# RLIMIT_FSIZE makes the kernel refuse the bytes beyond it, as a full disk does; the signal would end the process.
FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from zhaiju import files
from zhaiju.errors import OutputError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
path = Path(sys.argv[2])
try:
    if sys.argv[1] == "file":
        files.write_text(path, "x" * 1_000_000)
    else:
        files.atomic_directory(path, lambda folder: (folder / "model.bin").write_bytes(b"x" * 1_000_000) and None)
except OutputError as error:
    print(error)
    sys.exit(2)
"""


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_old_result_stays_and_no_rest_remains_when_the_disk_is_full(tmp_path, kind):
    path = tmp_path / "out"
    old = path if kind == "file" else path / "model.bin"
    write_text(old, "old")
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, kind, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout.startswith(f"cannot write {path}: File too large")
    assert old.read_text() == "old"
    assert names(tmp_path) == ["out"]


def test_directory_in_the_place_of_the_file_is_refused(tmp_path):
    with pytest.raises(OutputError, match="is a directory"):
        write_text(tmp_path, "x")


def test_file_in_the_place_of_the_folder_is_refused(tmp_path):
    write_text(tmp_path / "file", "x")
    with pytest.raises(OutputError, match=f"cannot write {tmp_path}/file/out.txt"):
        write_text(tmp_path / "file" / "out.txt", "x")
    with pytest.raises(OutputError, match=f"cannot write {tmp_path}/file/run"):
        atomic_directory(tmp_path / "file" / "run", lambda folder: None)


def test_a_pipe_is_written_straight_into():
    done = subprocess.run(
        [sys.executable, "-c", "from zhaiju.files import write_text; write_text('/dev/stdout', '橋')"],
        stdout=subprocess.PIPE,
        check=True,
    )
    assert done.stdout == "橋".encode()


def test_json_is_readable_utf_8(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"橋": [1, None]})
    assert "橋" in path.read_text(encoding="utf-8")
    assert json.loads(path.read_text(encoding="utf-8")) == {"橋": [1, None]}


def test_json_refuses_nan_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, 1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, float("nan"))
    assert json.loads(path.read_text()) == 1
    assert names(tmp_path) == ["a.json"]


def fill(folder):
    (folder / "sub").mkdir()
    (folder / "sub" / "new.txt").write_text("new")


@pytest.mark.parametrize("name", ["run", "run[1]"])
def test_directory_replaces_the_old_one_and_sweeps_left_overs_of_its_own(tmp_path, name):
    write_text(tmp_path / name / "old.txt", "old")
    write_text(tmp_path / f".{name}.abc.tmp" / "half", "killed writer")
    write_text(tmp_path / ".other.abc.tmp" / "half", "another's")
    atomic_directory(tmp_path / name, fill)
    assert names(tmp_path) == [".other.abc.tmp", name]
    assert names(tmp_path / name) == ["sub"]
    assert (tmp_path / name / "sub" / "new.txt").read_text() == "new"


def test_old_directory_stays_when_filling_fails(tmp_path):
    path = tmp_path / "run"
    write_text(path / "old.txt", "old")

    def fail(folder):
        fill(folder)
        raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        atomic_directory(path, fail)
    assert names(tmp_path) == ["run"]
    assert names(path) == ["old.txt"]


def test_link_moves_from_target_to_target_and_with_its_folder(tmp_path):
    link = tmp_path / "runs" / "best"
    for step in (1, 2):
        write_text(tmp_path / "runs" / f"step-{step}" / "n", str(step))
        point(link, tmp_path / "runs" / f"step-{step}")
        assert (link / "n").read_text() == str(step)
    (tmp_path / "runs").rename(tmp_path / "moved")
    assert (tmp_path / "moved" / "best" / "n").read_text() == "2"
    assert names(tmp_path / "moved") == ["best", "step-1", "step-2"]


def test_link_over_a_directory_or_in_no_folder_is_refused(tmp_path):
    (tmp_path / "best").mkdir()
    with pytest.raises(OutputError, match=r"cannot write .*best"):
        point(tmp_path / "best", tmp_path)
    with pytest.raises(OutputError, match=r"cannot write .*nowhere"):
        point(tmp_path / "nowhere" / "best", tmp_path)


def test_fingerprint_is_the_sha_256_of_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert fingerprint(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_link_stays_a_link_and_its_target_is_written(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to("far/real.json")
    write_json(tmp_path / "link.json", [1])
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "far" / "real.json").read_text()) == [1]


def test_a_byte_that_is_no_text_is_written_as_an_escape(tmp_path):
    write_json(tmp_path / "a.json", ["runs/\udcff"])
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == ["runs/\udcff"]


@pytest.mark.parametrize("values", [{}, {"甲": "乙"}, {'"a\n': "\\\u2028", "b": 7, "c": "", "\udcff": "x"}])
def test_an_object_written_entry_by_entry_is_the_object_written_whole(tmp_path, values):
    write_json(tmp_path / "whole.json", values)
    with atomic_object(tmp_path / "parts.json") as write:
        for key, value in values.items():
            write(key, value)
        assert names(tmp_path)[-1] == "whole.json"
    assert (tmp_path / "parts.json").read_bytes() == (tmp_path / "whole.json").read_bytes()


def test_a_small_file_is_read_and_a_link_to_it_too(tmp_path):
    write_text(tmp_path / "a.json", '{"船": 1}')
    (tmp_path / "link").symlink_to("a.json")
    assert read_json(tmp_path / "a.json") == read_json(tmp_path / "link") == {"船": 1}
    assert read_small(tmp_path / "a.json", most=12) == '{"船": 1}'


@pytest.mark.parametrize(
    "make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), os.mkdir], ids=["pipe", "link", "folder"]
)
def test_what_is_no_plain_file_is_not_waited_for(tmp_path, make):
    make(tmp_path / "a")
    with pytest.raises(OSError, match=r"is no plain file|Is a directory"):
        read_small(tmp_path / "a")


def test_a_file_that_is_larger_than_it_may_be_or_too_deep_is_refused(tmp_path):
    write_text(tmp_path / "a", "x" * 11)
    with pytest.raises(ValueError, match="is too large, found more than 10 bytes, expected at most 10"):
        read_small(tmp_path / "a", most=10)
    write_text(tmp_path / "a", "[" * 100_000)
    with pytest.raises(ValueError, match="nested too deeply"):
        read_json(tmp_path / "a")
