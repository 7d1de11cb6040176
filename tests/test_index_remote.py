"""The index beyond one machine: on object storage (an S3 of moto's, see buckets.py), and built on Ray."""

import importlib.util
import json
import os
import random
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("lancedb")

from zhaiju.corpus import cluster
from zhaiju.corpus.documents import Paragraph
from zhaiju.corpus.index import Changes, Entry, Index, Stored, sync
from zhaiju.errors import ConfigError, DataError, OutputError

BOATS = "林師傅在河邊修船，一天修兩條。"
GOATS = "山羊在屋頂上睡覺。"


def texts(found):
    return [one.paragraph.text for one in found]


def read(name):
    return [Paragraph(BOATS, name, line=1), Paragraph(GOATS, name, line=2)]


def run(*arguments):
    """zhaiju in its own process; its exit code, what it printed, what it said."""
    command = [sys.executable, "-c", "from zhaiju.cli import main; main()", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)  # only so that it ends
    return done.returncode, done.stdout, done.stderr


# --- object storage


@pytest.mark.slow
def test_bucket_works_like_a_folder(bucket):
    with pytest.raises(DataError, match="holds no index"):
        Index.open(bucket)
    index = Index.open(bucket, create=True)
    reader = Index.open(bucket)
    assert sync(index, [("a", "1"), ("b", "1")], read) == Changes(added=2)
    assert index.is_optimised
    assert texts(reader.search("誰修船？", 5)) == [BOATS, BOATS]
    assert reader.documents() == [Stored("a", "1", 2), Stored("b", "1", 2)]
    assert sync(index, [("a", "2")], read, prune_under=[""]) == Changes(changed=1, removed=1)
    assert reader.documents() == [Stored("a", "2", 2)]
    index.remove("a")
    index.optimise()
    assert (reader.count, reader.search("山羊", 1)) == (0, [])


@pytest.mark.slow
def test_commands_know_a_bucket(bucket, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "boats.txt").write_text(BOATS, "utf-8")
    code, printed, said = run("index", tmp_path / "notes", "-o", bucket, "--json")
    assert (code, json.loads(printed)["added"]) == (0, 1), said
    code, printed, said = run("ask", "誰在河邊修船？", "--index", bucket, "--json")
    assert (code, json.loads(printed)["quotes"][0]["paragraph"]) == (0, BOATS), said
    code, printed, said = run("index", "--list", "-o", bucket, "--json")
    assert (code, json.loads(printed)[0]["paragraphs"]) == (0, 1), said
    (tmp_path / "notes" / "boats.txt").unlink()
    code, printed, said = run("index", tmp_path / "notes", "-o", bucket, "--json")
    assert (code, json.loads(printed)["removed"]) == (0, 1), said
    assert not [name for name in os.listdir() if name.startswith("s3:")]


@pytest.mark.slow
@pytest.mark.parametrize("shared_names", [False, True])
@pytest.mark.parametrize("place", ["bucket", "folder"])
def test_writers_without_a_lock_lose_and_double_nothing(request, tmp_path, place, shared_names):
    uri = request.getfixturevalue("bucket") if place == "bucket" else f"file://{tmp_path}/index"
    Index.open(uri, create=True)

    def write(writer):
        kept = {}
        index = Index.open(uri)
        for number in range(8):
            name, size = f"{'' if shared_names else writer}{number}", 1 + (writer == "a") + number % 2
            try:
                index.update(name, writer, [Paragraph(GOATS, name)] * size)
            except OutputError:
                continue
            kept[name] = Stored(name, writer, size)
        return kept

    with ThreadPoolExecutor(2) as pool:
        kept = list(pool.map(write, "ab"))
    stored = Index.open(uri).documents()
    assert stored
    assert [one.document for one in stored] == sorted(kept[0].keys() | kept[1].keys())
    assert all(one in (kept[0].get(one.document), kept[1].get(one.document)) for one in stored)


@pytest.mark.slow
def test_what_is_wrong_with_a_bucket_is_told_soon_and_in_a_line(bucket, monkeypatch):
    index = Index.open(bucket, create=True)

    def told(problem, act, kind=DataError, seconds=15):
        began = time.monotonic()
        with pytest.raises(kind, match=problem) as caught:
            act()
        assert "\n" not in str(caught.value)
        assert time.monotonic() - began < seconds

    told("NoSuchBucket", lambda: Index.open("s3://nothing/index"))
    told("NoSuchBucket", lambda: Index.open("s3://nothing/index", create=True))
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"http://127.0.0.1:{mute.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        told("no answer in time", lambda: Index.open(bucket), seconds=60)
    told("Connection refused", lambda: Index.open(bucket))
    told("Connection refused", lambda: Index.open(bucket, create=True))
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    told("http is allowed only with AWS_ALLOW_HTTP=true", lambda: Index.open(bucket), ConfigError)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "127.0.0.1:1 ")
    told("expected http://… or https://…", lambda: Index.open(bucket), ConfigError)
    assert index.count == 0  # what is open stays open


@pytest.mark.slow
def test_bucket_that_is_gone_while_it_is_used_is_told(own_server):
    index = Index.open("s3://bucket/index", create=True)
    own_server.communicate()
    with pytest.raises(DataError, match="error sending request"):
        index.search("山羊", 1)
    with pytest.raises(OutputError, match="error sending request"):
        index.update("a", "1", read("a"))


@pytest.mark.slow
def test_keys_that_are_missing_are_told(bucket, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(DataError, match="no AWS credentials"):
        Index.open(bucket)


# --- Ray


def test_other_places_are_told(tmp_path):
    index = Index.open(str(tmp_path), create=True)
    for act in (lambda: index.optimise(on="mars"), lambda: sync(index, [], read, on="mars")):
        with pytest.raises(ConfigError, match="built on 'mars', expected local or ray"):
            act()


def test_missing_library_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lance_ray", None)
    index = Index.open(str(tmp_path), create=True)
    with pytest.raises(ConfigError, match=r'lance_ray is not installed; pip install "zhaiju\[scale\]"'):
        sync(index, [("a", "1")], read, on="ray")
    assert index.documents() == []


@pytest.fixture
def ray(monkeypatch):
    for name in ("ray", "lance_ray"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: pip install 'zhaiju[scale]'")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def entries():
    chance = random.Random(0)
    signs = "天地玄黃宇宙洪荒日月盈昃辰宿列張寒來暑往秋收冬藏"
    for number in range(60):
        lines = ["".join(chance.choices(signs[: 8 + number % 16], k=chance.randint(3, 40))) for _ in range(number % 7)]
        yield Entry(str(number), "1", [Paragraph(line, str(number), line=place) for place, line in enumerate(lines, 1)])


def filled(uri):
    index = Index.open(uri, create=True)
    given = list(entries())
    for start in range(0, len(given), 20):
        index.commit(given[start : start + 20])
    return index


def assert_same(one, other):
    chance = random.Random(1)
    for _ in range(50):
        question = "".join(chance.choices("天地玄黃宇宙洪荒日月盈昃", k=4))
        first, second = one.search(question, 10), other.search(question, 10)
        assert [found.paragraph for found in first] == [found.paragraph for found in second]
        assert [found.score for found in first] == pytest.approx([found.score for found in second])


@pytest.mark.slow
@pytest.mark.parametrize("segments", [1, 3])
def test_index_built_on_ray_finds_the_same(ray, tmp_path, monkeypatch, segments):
    here, there = filled(str(tmp_path / "here")), filled(str(tmp_path / "there"))
    here.optimise()
    if segments > 1:  # as where a table has many files, each too big to be joined
        import lance_ray

        monkeypatch.setattr(lance_ray, "compact_files", lambda *given, **options: None)
        monkeypatch.setattr(cluster, "_workers", lambda ray: segments)
        monkeypatch.setenv("RAY_OVERRIDE_RESOURCES", json.dumps({"CPU": segments}))
    there.optimise(on="ray")
    (made,) = there._table.list_indices()
    (local,) = here._table.list_indices()
    assert made.num_segments == segments
    assert made.index_details == local.index_details
    assert there.is_optimised
    assert_same(here, there)
    # What comes later is as ever.
    for index in (here, there):
        index.commit([Entry("0", "2", [Paragraph(GOATS, "0")])], ["7"])
        index.optimise()
    assert_same(here, there)
    assert texts(there.search("山羊", 1)) == [GOATS]


@pytest.mark.slow
def test_index_on_a_bucket_is_built_on_ray(ray, bucket, tmp_path):
    here, there = filled(str(tmp_path / "here")), filled(bucket)
    here.optimise()
    there.optimise(on="ray")
    assert there.is_optimised
    assert_same(here, there)


@pytest.mark.slow
def test_command_builds_on_ray(ray, tmp_path):
    (tmp_path / "boats.txt").write_text(BOATS, "utf-8")
    for added in (1, 0):
        code, printed, said = run("index", tmp_path / "boats.txt", "-o", tmp_path / "index", "--on", "ray", "--json")
        assert (code, json.loads(printed)["added"]) == (0, added), said
    assert texts(Index.open(str(tmp_path / "index")).search("修船", 1)) == [BOATS]


@pytest.mark.slow
def test_cluster_that_is_not_there_is_told(ray, tmp_path, monkeypatch):
    index = filled(str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with pytest.raises(
        OutputError, match=r"cannot write .*: no Ray cluster at 127\.0\.0\.1:9: Connection refused"
    ) as caught:
        index.optimise(on="ray")
    assert "\n" not in str(caught.value)
    assert index.count == sum(len(entry.paragraphs) for entry in entries())


def test_ray_builds_nothing_of_nothing(ray, tmp_path):
    index = Index.open(str(tmp_path), create=True)
    index.optimise(on="ray")
    assert index.count == 0
