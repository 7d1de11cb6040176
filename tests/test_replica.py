"""A copy of an index here: what its own tests do not say. Most have the index at file://, asked as a bucket is."""

import json
import logging
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import textwrap
import threading
import time
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("lancedb")

import buckets
from zhaiju.corpus import replica as module
from zhaiju.corpus.documents import Paragraph
from zhaiju.corpus.index import Entry, Index
from zhaiju.corpus.manifest import number_of, parse
from zhaiju.corpus.replica import Replication
from zhaiju.data.storage import Storage
from zhaiju.errors import ConfigError, DataError

BOATS = "林師傅在河邊修船，一天修兩條。"
GOATS = "山羊在屋頂上睡覺。"
KILLS = int(os.environ.get("ZHAIJU_KILLS", 5))


def entry(document, *texts, digest="1"):
    return Entry(document, digest, [Paragraph(text, document, line=place + 1) for place, text in enumerate(texts)])


def texts(found):
    return [one.paragraph.text for one in found]


def files(folder):
    """Names of all files under a folder but locks and links."""
    found = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink() and path.name != "lock"]
    return sorted(str(path.relative_to(folder)) for path in found)


@pytest.fixture
def uri(tmp_path):
    uri = f"file://{tmp_path}/index"
    Index.open(uri, create=True).commit([entry("a", BOATS), entry("b", GOATS)])
    return uri


@pytest.fixture
def warned():
    return []


@pytest.fixture
def opened(uri, tmp_path, warned):
    """Opens the copy of the index, always the same one."""

    def opened(uri=uri, **settings):
        settings = {"every": 0, "folder": tmp_path / "copies", "warn": warned.append} | settings
        return Index.open(uri, replica=Replication(**settings))

    return opened


@pytest.fixture
def fetched(monkeypatch):
    """What is fetched from now on."""
    names = []
    fetch = Storage.fetch
    monkeypatch.setattr(Storage, "fetch", lambda self, name, to: names.append(name) or fetch(self, name, to))
    return names


@pytest.fixture
def away(monkeypatch):
    """Makes object storage unreachable, and reachable again."""
    listed = Storage.listed
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.0)

    def set_away(gone):
        def refuse(self, under):
            raise DataError("cannot be read", file=self.at(under), found="Connection refused")

        monkeypatch.setattr(Storage, "listed", refuse if gone else listed)

    return set_away


# --- what is fetched, and what stays


def test_only_what_is_new_is_fetched(uri, opened, fetched):
    index = opened()
    assert len(fetched) == len(set(fetched)) >= 2
    first = set(fetched)
    fetched.clear()
    assert texts(index.search("修船", 1)) == [BOATS]
    assert fetched == []
    Index.open(uri).commit([entry("c", "書店")])
    assert texts(index.search("書店", 1)) == ["書店"]
    assert fetched
    assert first.isdisjoint(fetched)
    fetched.clear()
    assert opened().count == 3  # as another process
    assert fetched == []


def test_a_copy_goes_when_nobody_reads_it_any_more(uri, opened, tmp_path):
    index, writer = opened(), Index.open(uri)
    (home,) = (tmp_path / "copies").iterdir()
    held = index._replica.copy()
    for number in range(3):
        writer.update("a", str(number), [Paragraph(f"書店{number}", "a")])
        writer.optimise()
        assert texts(index.search("書店", 9)) == [f"書店{number}"]
        assert len(list((home / "copies").iterdir())) == 2
        assert held.table.count_rows("text IS NOT NULL") == 2
        assert held.table.search().where("document = 'a'").to_list()[0]["text"] == BOATS
    del held
    writer.remove("a")
    assert index.count == 1
    (copy,) = (home / "copies").iterdir()
    # What is kept is what this version consists of, once on disk.
    kept = [name for name in files(copy / "paragraphs.lance") if not name.startswith("_versions")]
    assert files(home / "files") == kept
    assert {(home / "files" / name).stat().st_nlink for name in kept} == {2}


def test_an_index_made_anew_at_the_same_address_is_another(uri, opened, tmp_path):
    index = opened()
    Index.open(uri).commit([entry(str(number), GOATS) for number in range(3)])
    assert index.count == 5
    shutil.rmtree(tmp_path / "index")
    with pytest.raises(DataError, match=r"cannot be read as an index|holds no index"):
        _ = index.count
    Index.open(uri, create=True).commit([entry("new", BOATS)])  # of a lower version than the copy
    assert [stored.document for stored in index.documents()] == ["new"]
    assert texts(index.search("修船", 9)) == [BOATS]


def test_what_is_written_shows_at_once_in_the_writers_own_copy(uri, opened, warned):
    index = opened(every=3600)
    index.commit([entry("c", "書店")])
    assert texts(index.search("書店", 1)) == ["書店"]
    index.remove("c")
    assert index.search("書店", 1) == []
    index.optimise()
    assert index.is_optimised
    index.close()
    assert warned == []


def test_it_follows_in_the_background(uri, opened):
    index = opened(every=0.05)
    Index.open(uri).commit([entry("c", "書店")])
    until = time.monotonic() + 30
    while not index.search("書店", 1):
        assert time.monotonic() < until
        time.sleep(0.02)
    index.close()
    Index.open(uri).remove("c")
    time.sleep(0.2)
    assert index.count == 3


def test_an_index_that_nobody_has_any_more_is_not_followed(opened):
    index = opened(every=0.05)
    (thread,) = [one for one in threading.enumerate() if one.name == "zhaiju-replica"]
    del index
    thread.join(30)
    assert not thread.is_alive()


# --- what goes wrong


def test_without_its_bucket_a_copy_answers_and_says_so(uri, opened, warned, away):
    index = opened()
    assert index.behind is None
    away(True)
    for _ in range(3):
        assert texts(index.search("修船", 1)) == [BOATS]
    assert index.behind >= 0
    assert len(warned) == 1
    assert warned[0].startswith(f"the copy of {uri} answers, as it was: ")
    assert "Connection refused" in warned[0]
    assert texts(opened().search("修船", 1)) == [BOATS]  # as another process that starts now
    away(False)
    Index.open(uri).remove("a")
    assert index.count == 1
    assert index.behind is None
    assert warned[2:] == [f"{uri} is followed again"]


def test_without_its_bucket_and_a_copy_there_is_an_error(opened, away):
    away(True)
    with pytest.raises(DataError, match="Connection refused"):
        opened()


def test_a_cache_that_is_emptied_or_damaged_while_it_is_used_is_made_anew(uri, opened, tmp_path, warned):
    index = opened(every=3600)
    shutil.rmtree(tmp_path / "copies")
    assert texts(index.search("修船", 1)) == [BOATS]
    index = opened(every=3600)
    for path in (tmp_path / "copies").rglob("*.lance"):
        if path.is_file():
            os.truncate(path, 10)
    assert texts(index.search("修船", 1)) == [BOATS]
    assert texts(opened(every=3600).search("山羊", 1)) == [GOATS]
    assert warned == []
    index.close()


def test_where_no_copy_can_be_kept_the_index_is_read_where_it_is(uri, opened, tmp_path, warned):
    (tmp_path / "file").write_text("x")
    index = opened(folder=tmp_path / "file")
    for _ in range(2):
        assert texts(index.search("修船", 1)) == [BOATS]
    (told,) = warned
    assert told.startswith(f"{uri} is read where it is: cannot write {tmp_path}/file/")
    Index.open(uri).remove("a")
    assert index.count == 1


def test_copies_take_no_more_than_they_may(uri, opened, tmp_path, warned):
    other = f"file://{tmp_path}/other"
    Index.open(other, create=True).commit([entry("o", "書店" * 50)])
    assert opened().count == 2
    first = module._size(tmp_path / "copies")
    assert texts(opened(other, most=9 * first).search("書店", 1)) == ["書店" * 50]
    both = module._size(tmp_path / "copies")
    homes = list((tmp_path / "copies").iterdir())
    assert all(map(files, homes))
    # Less than both take now: what nobody reads goes, the least recently used first.
    Index.open(uri).commit([entry("c", GOATS)])
    assert opened(most=both).count == 3
    assert sum(bool(files(home)) for home in homes) == 1
    assert module._size(tmp_path / "copies") <= both
    # What is read stays, so there is no room for another.
    reader = opened()
    assert texts(opened(other, most=(first + both) // 2).search("書店", 1)) == ["書店" * 50]
    assert reader.count == 3
    (told,) = warned
    assert told.startswith(f"{other} is read where it is: ")
    assert "copies in use take" in told
    warned.clear()
    assert texts(opened(most=1000, folder=tmp_path / "small").search("修船", 1)) == [BOATS]
    (told,) = warned
    assert "and copies may take 1,000" in told


def test_an_old_copy_of_the_same_index_makes_room_too(uri, opened, tmp_path, warned):
    assert opened().count == 2
    taken = module._size(tmp_path / "copies")
    shutil.rmtree(tmp_path / "index")
    Index.open(uri, create=True).commit([entry("a", BOATS), entry("b", GOATS)])  # of other files
    assert opened(most=int(1.5 * taken)).count == 2
    assert warned == []
    assert module._size(tmp_path / "copies") <= 1.5 * taken


def test_only_an_index_elsewhere_is_copied(tmp_path):
    Index.open(str(tmp_path), create=True)
    with pytest.raises(ConfigError, match="is on this machine already"):
        Index.open(str(tmp_path), replica=Replication())
    with pytest.raises(ConfigError, match="expected at least 0"):
        Index.open(f"file://{tmp_path}", replica=Replication(every=-1))
    with pytest.raises(ConfigError, match="cannot be reached"):
        Index.open("no-such-scheme://a/b", replica=Replication())


def test_a_version_deleted_while_it_is_copied_is_left_for_the_next(uri, opened, monkeypatch):
    fetch, writer = Storage.fetch, Index.open(uri)
    left = ["書店一", "書店二"]

    def late(self, name, to):
        if left and name.startswith("data"):
            writer.commit([entry("c", left.pop())])
            shutil.move(self.at(name).removeprefix("file://"), to.with_name("gone"))
            raise DataError("no such file", file=self.at(name))
        fetch(self, name, to)

    index = opened(every=3600)
    writer.commit([entry("d", GOATS)])
    monkeypatch.setattr(Storage, "fetch", late)
    monkeypatch.setattr(module, "FETCHES", 1)
    moved = []
    real = shutil.move
    monkeypatch.setattr(shutil, "move", lambda *pair: moved.append(pair))
    index._follow()
    assert (len(moved), left) == (2, [])
    assert texts(index.search("書店", 1)) == ["書店一"]
    assert real is not shutil.move
    index.close()


# --- other processes

READER = """
    import sys
    from pathlib import Path
    from zhaiju.corpus.index import Index
    from zhaiju.corpus.replica import Replication
    print("started", flush=True)
    index = Index.open(sys.argv[1], replica=Replication(every=float(sys.argv[3]), folder=Path(sys.argv[2])))
    last, seen = -1, set()
    while len(seen) < int(sys.argv[4]):
        found = index.search("山羊", 50)
        digests = {one.paragraph.heading for one in found}
        assert len(found) == 20 and len(digests) == 1, (len(found), digests)
        (number,) = map(float, digests)
        assert number >= last, (number, last)
        last = number
        seen.add(last)
    print("saw", len(seen), flush=True)
"""


def reading(uri, folder, every=0.0, versions=10**9):
    """A reader in its own process until it has seen so many versions."""
    command = [sys.executable, "-c", textwrap.dedent(READER), uri, str(folder), str(every), str(versions)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def write(index, number):
    """Twenty documents in one commit, each of which says which one it was."""
    index.commit([Entry(str(n), str(number), [Paragraph(GOATS, str(n), heading=str(number))]) for n in range(20)])


@pytest.mark.slow
@pytest.mark.parametrize("every", [0.0, 0.1])
def test_readers_that_share_copies_see_whole_versions_in_order_while_a_writer_goes_on(tmp_path, every):
    index = Index.open(f"file://{tmp_path}/index", create=True)
    write(index, 0)
    readers = [reading(index.uri, tmp_path / "copies", every, 5) for _ in range(2)]
    for reader in readers:
        reader.stdout.readline()
    number = 0
    while any(reader.poll() is None for reader in readers):
        number += 1
        write(index, number)
        if number % 5 == 0:
            index.optimise()
    for reader in readers:
        assert reader.communicate()[0] == "saw 5\n"
        assert reader.returncode == 0


@pytest.mark.slow
def test_kill_at_any_moment_leaves_copies_that_others_go_on_with(tmp_path):
    chance = random.Random(0)
    index = Index.open(f"file://{tmp_path}/index", create=True)
    for kill in range(KILLS):
        write(index, kill)
        reader = reading(index.uri, tmp_path / "copies")
        reader.stdout.readline()
        for number in range(3):
            time.sleep(chance.random() * 0.3)
            write(index, kill + number / 10)
        reader.send_signal(signal.SIGKILL)
        reader.communicate()
    write(index, KILLS)
    last = Index.open(index.uri, replica=Replication(every=0, folder=tmp_path / "copies"))
    assert {one.paragraph.heading for one in last.search("山羊", 50)} == {str(KILLS)}
    (home,) = (tmp_path / "copies").iterdir()
    (copy,) = (home / "copies").iterdir()
    kept = [name for name in files(copy / "paragraphs.lance") if not name.startswith("_versions")]
    assert files(home / "files") == kept


# --- manifests


@pytest.fixture
def manifest(tmp_path):
    index = Index.open(str(tmp_path / "index"), create=True)
    index.commit([entry("a", BOATS, GOATS), entry("b", GOATS), entry("c", BOATS)])
    index.optimise()
    index.commit([entry("a", GOATS, digest="2")])
    index.remove("b")
    found = (tmp_path / "index" / "paragraphs.lance" / "_versions").glob("*.manifest")
    return max(found, key=lambda path: number_of(path.name))


def test_a_manifest_names_files_that_are_there(manifest):
    version = parse(manifest.read_bytes())
    assert version.number == number_of(manifest.name)
    assert version.folders == ()
    table = manifest.parents[1]
    assert {file.name.split("/")[0] for file in version.files} == {"data", "_indices", "_deletions"}
    for file in version.files:
        assert file.size in (0, (table / file.name).stat().st_size)


def test_names_of_manifests():
    names = {"18446744073709551606.manifest": 9, "9.manifest": 9, "latest_version_hint.json": None, "d9.manifest": None}
    assert {name: number_of(name) for name in names} == names


def test_a_damaged_manifest_is_no_manifest(manifest):
    whole = manifest.read_bytes()
    chance = random.Random(0)
    for place in [*range(0, len(whole), 97), len(whole) - 1]:
        with pytest.raises(ValueError, match="no manifest"):
            parse(whole[:place])
    for _ in range(2000):
        damaged = bytearray(whole)
        damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        try:
            version = parse(bytes(damaged))
        except ValueError:
            continue
        assert all(".." not in file.name.split("/") for file in version.files)


@given(st.binary(max_size=200))
def test_any_bytes_are_no_manifest(data):
    for given_ in (data, data + struct.pack("<QHH", 0, 0, 2) + b"LANC"):
        try:
            parse(given_)
        except ValueError:
            continue


def _written(*fields):
    """A manifest of these fields' bytes."""
    message = b"".join(fields)
    return struct.pack("<I", len(message)) + message + struct.pack("<QHH", 0, 0, 2) + b"LANC"


@pytest.mark.parametrize("name", [b"../../../x.lance", b"a/../../x", b"", b".", b"/etc/x", b"a\0b"])
def test_a_file_elsewhere_is_refused(name):
    path = b"\x0a" + bytes([len(name)]) + name
    data_file = b"\x12" + bytes([len(path)]) + path
    with pytest.raises(ValueError, match="a file is called"):
        parse(_written(b"\x12" + bytes([len(data_file)]) + data_file))


def test_a_table_with_parts_elsewhere_is_refused():
    assert parse(_written(b"\x18\x07", b"\x48\x01")).number == 7
    with pytest.raises(ValueError, match="a table with the flags 10000"):
        parse(_written(b"\x18\x07", b"\x48\x10"))


# --- a bucket, the commands, the service


def test_an_s3_that_ends_and_comes_again(own_server, tmp_path, monkeypatch, warned):
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.0)
    index = Index.open("s3://bucket/index", create=True)
    index.commit([entry("a", BOATS)])
    settings = Replication(every=0, folder=tmp_path / "copies", warn=warned.append)
    copy = Index.open("s3://bucket/index", replica=settings)
    own_server.communicate()
    assert texts(copy.search("修船", 1)) == [BOATS]
    assert copy.behind is not None
    assert texts(Index.open("s3://bucket/index", replica=settings).search("修船", 1)) == [BOATS]
    assert len(warned) == 2
    process, _ = buckets.start(int(os.environ["AWS_ENDPOINT_URL"].rpartition(":")[2]))
    try:
        index = Index.open("s3://bucket/index", create=True)
        index.commit([entry("b", GOATS)])
        assert texts(copy.search("山羊", 1)) == [GOATS]
        assert copy.behind is None
        assert warned[2:] == ["s3://bucket/index is followed again"]
    finally:
        process.communicate()


def test_ask_asks_the_copy(run, uri, tmp_path, monkeypatch, fetched, away):
    monkeypatch.setenv("ZHAIJU_CACHE", str(tmp_path / "cache"))
    ask = partial(run, "ask", "誰在河邊修船？", "--json", "--index", uri, "--replica", "0.1")
    code, out, err = ask()
    assert (code, json.loads(out)["quotes"][0]["paragraph"], err) == (0, BOATS, "")
    assert fetched
    assert files(tmp_path / "cache" / "replicas")
    fetched.clear()
    away(True)
    code, out, err = ask()
    assert (code, json.loads(out)["quotes"][0]["paragraph"]) == (0, BOATS)
    assert err.startswith(f"zhaiju: the copy of {uri} answers, as it was: ")
    assert err.count("\n") == 1
    assert fetched == []


def test_a_replica_of_nothing_is_refused(run, tmp_path):
    Index.open(str(tmp_path / "index"), create=True)
    code, _, err = run("ask", "誰？", "a.txt", "--replica", "1")
    assert (code, "name the index with --index" in err) == (2, True)
    code, _, err = run("ask", "誰？", "--index", tmp_path / "index", "--replica", "1")
    assert (code, "is on this machine already" in err) == (2, True)
    code, _, err = run("serve", "--replica", "1")
    assert (code, "name the index with --index" in err) == (2, True)


def test_the_service_says_that_its_index_is_away(uri, tmp_path, away, caplog):
    testclient = pytest.importorskip("fastapi.testclient")
    from zhaiju.api import Model
    from zhaiju.service.app import make_app
    from zhaiju.service.documents import Documents
    from zhaiju.service.limits import Settings
    from zhaiju.service.work import Models

    documents = Documents(uri, replica=Replication(every=0, folder=Path(tmp_path / "copies")))
    with testclient.TestClient(make_app(Settings(), Models(Model({})), documents)) as client:
        assert client.get("/readyz").json()["index_behind"] is None
        away(True)
        with caplog.at_level(logging.WARNING):
            answered = client.get("/readyz")
        assert answered.status_code == 200
        assert answered.json()["index_behind"] >= 0
        assert len(caplog.records) == 1
        away(False)
        assert client.get("/readyz").json()["index_behind"] is None
