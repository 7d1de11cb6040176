import json
import os
import random
import subprocess
import sys
import textwrap
import time
from functools import partial
from hashlib import sha256

import numpy as np
import pytest

pytest.importorskip("lancedb")

import kills
from zhaiju.corpus import index as module
from zhaiju.corpus.documents import Paragraph
from zhaiju.corpus.index import Changes, Embedding, Entry, Found, Index, Stored, sync
from zhaiju.corpus.lexical import BM25
from zhaiju.errors import CheckpointError, ConfigError, DataError, OutputError

KILLS = kills.count(5)

BOATS = "林師傅在河邊修船，一天修兩條。"
BOOKS = "鎮上有兩家書店，一家只賣舊書。"
TEA = "The tea house by the bridge opens at seven."
GOATS = "山羊在屋頂上睡覺。"


def entry(document, *texts, digest="1"):
    return Entry(document, digest, [Paragraph(text, document, line=place + 1) for place, text in enumerate(texts)])


def texts(found):
    return [one.paragraph.text for one in found]


# What is promised of an index wherever it is: in a folder or on a bucket.
everywhere = pytest.mark.parametrize("place", ["folder", "bucket"], indirect=True)


@pytest.fixture
def place(request):
    return getattr(request, "param", "folder")


@pytest.fixture
def opened(place, request, tmp_path):
    """Opens the index of a test, always the same one."""
    if place == "folder":
        return partial(Index.open, str(tmp_path / "index"))
    return partial(Index.open, request.getfixturevalue("bucket"))


@pytest.fixture
def index(opened):
    made = opened(create=True)
    made.commit([entry("a.txt", BOATS, BOOKS), entry("b.txt", TEA)])
    return made


# --- what is kept


@everywhere
def test_paragraphs_come_back_as_they_were(index):
    given = [
        Paragraph("一\n二", 'it\'s "é".pdf', page=3, heading="題"),
        Paragraph("三", 'it\'s "é".pdf', number=7),
        Paragraph("一", 'it\'s "é".pdf', line=2),
    ]
    index.update('it\'s "é".pdf', "d", given)
    assert index.paragraphs('it\'s "é".pdf') == given
    score = pytest.approx(index.search("三", 1)[0].score)
    assert index.search("題三", 1) == [Found(given[1], score)]
    assert index.paragraphs("nothing") == []


@everywhere
def test_documents_are_listed_with_digest_and_count(index):
    index.update("empty.txt", "e", [])
    assert index.documents() == [Stored("a.txt", "1", 2), Stored("b.txt", "1", 1), Stored("empty.txt", "e", 0)]
    assert index.count == 3
    index.update("empty.txt", "f", [Paragraph(GOATS, "empty.txt")])
    assert index.documents()[2] == Stored("empty.txt", "f", 1)


@everywhere
def test_changes_and_removals_show_at_once_before_and_after_optimising(index, opened):
    reader = opened()
    for _ in range(2):
        assert texts(reader.search("誰在河邊修船？", 1)) == [BOATS]
        index.update("a.txt", "2", [Paragraph(GOATS, "a.txt")])
        assert texts(reader.search("修船的山羊", 5)) == [GOATS]
        assert reader.documents()[0] == Stored("a.txt", "2", 1)
        index.remove("a.txt")
        assert reader.search("修船的山羊", 5) == []
        index.commit([entry("a.txt", BOATS, BOOKS)])
        index.optimise()
        assert index.is_optimised


@everywhere
def test_one_commit_changes_adds_and_removes_and_leaves_the_others(index):
    index.commit([entry("a.txt", GOATS, digest="2"), entry("c'.txt", BOOKS)], ["b.txt", "never there"])
    assert index.documents() == [Stored("a.txt", "2", 1), Stored("c'.txt", "1", 1)]
    index.remove("c'.txt")
    index.remove("x' OR '1' = '1")
    assert index.documents() == [Stored("a.txt", "2", 1)]


@pytest.mark.parametrize(
    "bad", [entry("\udcff.txt", "貓"), entry("a.txt", "\ud800"), entry("a.txt", "貓", digest="\udfff")]
)
def test_what_is_no_unicode_is_refused_and_nothing_written(index, bad):
    with pytest.raises(DataError, match="is no Unicode"):
        index.commit([entry("new.txt", GOATS), bad])
    assert [stored.document for stored in index.documents()] == ["a.txt", "b.txt"]


def test_document_named_twice_is_refused(index):
    with pytest.raises(DataError, match=r"c\.txt: is named twice"):
        index.commit([entry("c.txt", GOATS)], ["c.txt"])


def test_long_words_and_odd_characters_are_kept(index):
    odd = ["x" * 100_000, "貓\0狗", "🐐🐐", "𠀀𠀁", ""]
    index.commit([entry("odd.txt", *odd)])
    assert [paragraph.text for paragraph in index.paragraphs("odd.txt")] == odd
    index.optimise()
    assert texts(index.search("x" * 100_000, 1)) == [odd[0]]
    assert texts(index.search("𠀀", 1)) == [odd[3]]


# --- search


@everywhere
def test_search_is_bm25(index):
    all_texts = [BOATS, BOOKS, TEA]
    index.optimise()
    for question in ("誰在河邊修船？", "兩家書店", "Tea house bridge", "一"):
        expected = BM25(all_texts).top(question, 3)
        found = index.search(question, 3)
        assert texts(found) == [all_texts[place] for place, _ in expected]
        assert [one.score for one in found] == pytest.approx([score for _, score in expected], rel=0.05)


def test_script_and_case_do_not_count(index):
    assert texts(index.search("书店", 1)) == [BOOKS]
    assert texts(index.search("TEA", 1)) == [TEA]


@pytest.mark.parametrize(
    "question",
    [
        "",
        "？！",
        "🐐",
        "\ud800",
        "\0",
        '"',
        "AND",
        "NOT * :",
        '"船',
        "'; DROP",
        "a:b AND (c OR",
        "\\",
        "^~2",
        "x" * 9999,
    ],
)
def test_no_question_is_an_error(index, question):
    assert all(isinstance(found, Found) for found in index.search(question, 3))
    assert texts(index.search(question + " 修船", 1)) == [BOATS]


@everywhere
def test_equal_paragraphs_come_in_the_order_of_names(index):
    index.commit([entry(name, GOATS) for name in ("z", "y", "x")])
    assert [found.paragraph.document for found in index.search("山羊", 9)] == ["x", "y", "z"]
    assert len(index.search("山羊", 2)) == 2
    assert index.search("山羊", 0) == []


@everywhere
def test_new_index_has_nothing(opened):
    index = opened(create=True)
    assert index.count == 0
    assert index.documents() == index.search("貓", 3) == []
    index.optimise()


# --- what is opened


@everywhere
def test_no_index_is_an_error_and_nothing_is_made(opened, place, tmp_path):
    with pytest.raises(DataError, match="holds no index"):
        opened()
    assert place != "folder" or not (tmp_path / "index").exists()


def test_creation_that_was_killed_is_done_again(tmp_path):
    (tmp_path / "paragraphs.lance" / "data").mkdir(parents=True)
    with pytest.raises(DataError, match="holds no index"):
        Index.open(str(tmp_path))
    assert Index.open(str(tmp_path), create=True).count == 0


def test_other_versions_are_told(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(module, "VERSION", "0")
        Index.open(str(tmp_path), create=True)
    with pytest.raises(DataError, match="another version; make it anew, found '0', expected 1"):
        Index.open(str(tmp_path), create=True)


def test_damage_is_told(index):
    for file in (module.os.path.join(index.uri, "paragraphs.lance", "_versions"),):
        for name in os.listdir(file):
            with open(os.path.join(file, name), "wb") as stream:
                stream.write(b"nothing")
    with pytest.raises(DataError, match="cannot be read as an index"):
        Index.open(index.uri)


def test_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot write"):
        Index.open(str(tmp_path / "file" / "index"), create=True)


def test_addresses_are_no_paths(monkeypatch):
    asked = []
    monkeypatch.setattr(module, "_connect", lambda uri, *options: asked.append(uri) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Index.open("s3://bucket//index", create=True)
    assert asked == ["s3://bucket//index"]


def test_address_with_a_scheme_works_like_a_folder(tmp_path):
    index = Index.open(f"file://{tmp_path}/index", create=True)
    index.commit([entry("a.txt", BOATS)])
    assert texts(Index.open(f"file://{tmp_path}/index").search("修船", 1)) == [BOATS]


# --- sync


class Folder:
    """Documents in memory that count how often they are read."""

    def __init__(self, **contents):
        self.contents = contents
        self.read_ones = []

    def listed(self):
        return [(name, sha256(text.encode()).hexdigest()) for name, text in self.contents.items()]

    def read(self, name):
        self.read_ones.append(name)
        if self.contents[name] == "damaged":
            raise DataError("is damaged", file=name)
        return [Paragraph(line, name, line=place) for place, line in enumerate(self.contents[name].split("\n"), 1)]


@everywhere
def test_sync_reads_only_what_changed(index):
    folder = Folder(a=BOATS, b=BOOKS, c=TEA)
    index.commit([], ["a.txt", "b.txt"])
    done = []
    assert sync(index, folder.listed(), folder.read, progress=done.append) == Changes(added=3)
    assert done == ["a", "b", "c"]
    folder.contents.update(b=GOATS, d="damaged", c="damaged")
    del folder.contents["a"]
    folder.read_ones.clear()
    errors = []
    changes = sync(
        index, folder.listed() * 2, folder.read, prune_under=[""], failed=lambda *error: errors.append(error)
    )
    assert changes == Changes(changed=1, removed=1, failed=2)
    assert folder.read_ones == ["b", "c", "d"]
    assert [document for document, _ in errors] == ["c", "d"]
    # What could not be read stays as it was.
    assert [stored.document for stored in index.documents()] == ["b", "c"]
    assert texts(index.search("山羊", 1)) == [GOATS]
    version = index._table.version
    assert sync(index, folder.listed()[:1], folder.read) == Changes(unchanged=1)
    assert index._table.version == version  # nothing was written


def test_sync_prunes_only_under_the_folders_given(index):
    folder = Folder(**dict.fromkeys(("x/a", "x/b", "xy", "y/a", "z"), GOATS))
    sync(index, folder.listed(), folder.read, prune_under=[""])
    assert sync(index, [], folder.read).removed == 0
    assert sync(index, folder.listed()[:1], folder.read, prune_under=["x/", "z"]).removed == 2
    assert [stored.document for stored in index.documents()] == ["x/a", "xy", "y/a"]
    assert sync(index, [], folder.read, prune_under=[""]).removed == 3
    assert index.count == 0


def test_sync_commits_in_batches(index, monkeypatch):
    monkeypatch.setattr(module, "BATCH_DOCUMENTS", 4)
    sizes = []
    commit = Index.commit
    monkeypatch.setattr(Index, "commit", lambda self, e, r=(): sizes.append(len(e)) or commit(self, e, r))
    folder = Folder(**{f"n{number}": GOATS for number in range(10)})
    sync(index, folder.listed(), folder.read)
    assert sizes == [4, 4, 2]
    monkeypatch.setattr(module, "BATCH_SECONDS", 0.0)
    folder.contents = {f"m{number}": GOATS for number in range(2)}
    sync(index, folder.listed(), folder.read)
    assert sizes == [4, 4, 2, 1, 1]


# --- other processes


def test_second_writer_is_told_and_readers_go_on(index):
    other = Index.open(index.uri)
    with index.writing():
        index.update("c.txt", "1", [Paragraph(GOATS, "c.txt")])
        for write in (lambda: other.remove("a.txt"), other.optimise, lambda: sync(other, [], list)):
            with pytest.raises(OutputError, match="another process is writing"):
                write()
        assert texts(other.search("山羊", 1)) == [GOATS]
    other.remove("a.txt")
    assert [stored.document for stored in index.documents()] == ["b.txt", "c.txt"]


def test_writers_without_a_lock_lose_nothing(tmp_path):
    """As on S3: each commit of two writers at once is there, or its writer was told."""
    from concurrent.futures import ThreadPoolExecutor

    uri = f"file://{tmp_path}/index"
    Index.open(uri, create=True)

    def write(writer):
        kept = []
        index = Index.open(uri)
        for number in range(8):
            try:
                index.update(f"{writer}-{number}", "1", [Paragraph(GOATS, f"{writer}-{number}")] * 2)
            except OutputError:
                continue
            kept.append(f"{writer}-{number}")
        return kept

    with ThreadPoolExecutor(2) as pool:
        kept = sorted(name for names in pool.map(write, "ab") for name in names)
    assert kept
    assert Index.open(uri).documents() == [Stored(name, "1", 2) for name in kept]


WRITER = """
    import json, sys
    from hashlib import sha256
    from zhaiju.corpus.documents import Paragraph
    from zhaiju.corpus import index as module
    from zhaiju.corpus.index import Index, sync
    contents = json.load(open(sys.argv[2]))
    module.BATCH_DOCUMENTS = 16
    def read(name):
        return [Paragraph(line, name, line=place) for place, line in enumerate(contents[name].split("\\n"), 1)]
    index = Index.open(sys.argv[1], create=True)
    print("open", flush=True)
    documents = [(name, sha256(text.encode()).hexdigest()) for name, text in contents.items()]
    print(sync(index, documents, read, prune_under=[""]))
"""


def start(uri, contents):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WRITER), uri, str(contents)], stdout=subprocess.PIPE, text=True
    )


def content(uri):
    """Every document's digest and paragraphs; each must be whole."""
    index = Index.open(uri)
    rows = index._rows({name: name for name in ("document", "digest", "place", "text")}).to_pylist()
    shown, digests = {}, {}
    for row in sorted(rows, key=lambda row: (row["document"], row["place"])):
        shown.setdefault(row["document"], []).append(row["text"])
        digests.setdefault(row["document"], set()).add(row["digest"])
    shown = {document: "\n".join(lines) for document, lines in shown.items()}
    assert digests == {document: {sha256(text.encode()).hexdigest()} for document, text in shown.items()}
    return index, shown


@pytest.mark.slow
def test_kill_at_any_moment_leaves_whole_documents_and_sync_goes_on(tmp_path):
    chance = random.Random(0)
    uri, file = str(tmp_path / "index"), tmp_path / "contents.json"
    wanted = {}
    for kill in range(KILLS):
        # 300 small documents, of which each round changes some, adds some and removes some.
        wanted = {name: text for name, text in wanted.items() if chance.random() < 0.8}
        for name in chance.sample(range(400), 300 if kill == 0 else 100):
            lines = [f"{name} 號的第 {line} 段，第 {kill} 次寫的" for line in range(chance.randint(1, 6))]
            wanted[f"it's {name}.txt"] = "\n".join(lines)
        file.write_text(json.dumps(wanted), "utf-8")
        began, writer = time.monotonic(), start(uri, file)
        assert writer.stdout.readline() == "open\n"
        time.sleep(chance.random() * 1.5)
        with kills.killed(writer, "index", began=began, seed=0):
            writer.stdout.close()
            content(uri)
    last = start(uri, file)
    output, _ = last.communicate()
    assert last.returncode == 0, output
    index, shown = content(uri)
    assert shown == wanted
    assert index.is_optimised
    name = min(wanted)
    first = index.paragraphs(name)[0]
    assert first.text in texts(index.search(first.text, 10))


@pytest.mark.slow
def test_kill_while_it_is_made(tmp_path):
    chance = random.Random(1)
    file = tmp_path / "contents.json"
    file.write_text(json.dumps({"a": BOATS}), "utf-8")
    code = "import lancedb, sys; from zhaiju.corpus.index import Index; print(flush=True)"
    code += "; Index.open(sys.argv[1], create=True)"
    for kill in range(-(-KILLS // 2)):
        uri = str(tmp_path / str(kill))
        began = time.monotonic()
        maker = subprocess.Popen([sys.executable, "-c", code, uri], stdout=subprocess.PIPE, text=True)
        maker.stdout.readline()
        time.sleep(chance.random() * 0.1)
        with kills.killed(maker, "index", began=began, seed=1):
            maker.stdout.close()
            index = Index.open(uri, create=True)
            index.commit([entry("a", BOATS)])
            assert texts(index.search("修船", 1)) == [BOATS]


@pytest.mark.slow
@everywhere
def test_reader_sees_whole_documents_while_a_writer_syncs(opened, tmp_path):
    index, file = opened(create=True), tmp_path / "contents.json"
    file.write_text(json.dumps({f"{name}": f"{GOATS}\n{name}\n{BOATS}" for name in range(300)}), "utf-8")
    writer = start(index.uri, file)
    writer.stdout.readline()
    while writer.poll() is None:
        assert {stored.paragraphs for stored in index.documents()} <= {3}
        assert len(index.search("山羊", 3)) in (0, 3)
    writer.stdout.close()
    assert writer.returncode == 0
    assert index.count == 900


# --- vectors


def toy(name="toy", dimension=3):
    """Counts boats, books and goats, whatever they are called."""
    groups = ["船舟舸", "書冊卷", "羊羝羔"]

    def embed(texts):
        return np.array([[sum(text.count(c) for c in group) for group in groups] for text in texts], dtype=np.float64)

    return Embedding(name, dimension, embed)


@everywhere
def test_vectors_find_what_words_do_not(opened):
    index = opened(create=True, embedding=toy())
    index.commit([entry("a.txt", BOATS, BOOKS), entry("empty.txt"), entry("b.txt", GOATS, TEA)])
    assert texts(index.search("舟", 1)) == [BOATS]
    assert texts(opened(embedding=toy()).search("羔", 1)) == [GOATS]
    both = index.search("河邊的船", 1)[0]
    assert both == Found(index.paragraphs("a.txt")[0], pytest.approx(2 / 61))
    index.optimise()
    assert texts(index.search("舟", 1)) == [BOATS]
    index.update("a.txt", "2", [Paragraph(GOATS, "a.txt")])
    assert texts(index.search("羝", 2)) == [GOATS, GOATS]


@pytest.mark.parametrize(
    ("made", "opened", "told"),
    [
        (None, toy(), r"holds no vectors; leave the embedder toy \(3\) out"),
        (toy(), None, r"holds vectors by toy \(3\); open it with --embedder toy$"),
        (toy(), toy("other"), r"by toy \(3\), not by other \(3\); open it with --embedder toy$"),
        (toy(), toy(dimension=4), r"by toy \(3\), not by toy \(4\)"),
    ],
)
def test_another_embedding_is_told(tmp_path, made, opened, told):
    Index.open(str(tmp_path), create=True, embedding=made)
    with pytest.raises(ConfigError, match=told):
        Index.open(str(tmp_path), embedding=opened)


# --- vectors of an encoder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    from checkpoints import bert

    folder = tmp_path_factory.mktemp("encoder") / "bert"
    bert(folder)
    return folder


def test_an_encoder_gives_each_text_its_own_vector_whatever_it_comes_with(encoder, one_thread):
    from zhaiju.corpus.embed import load_embedding

    embedding = load_embedding(str(encoder))
    given = [BOATS, BOOKS * 20, "船", "", GOATS]
    together = embedding.vectors(given)
    assert together.shape == (5, embedding.dimension)
    for text, vector in zip(given, together, strict=True):
        assert embedding.vectors([text])[0] == pytest.approx(vector, abs=1e-5)
        assert np.linalg.norm(vector) == pytest.approx(1)
    assert embedding.vectors([BOOKS * 21])[0] == pytest.approx(together[1], abs=1e-5)  # cut where the encoder ends
    assert embedding.vectors([]).shape == (0, embedding.dimension)


def test_an_encoder_is_the_same_from_every_folder(encoder, tmp_path, monkeypatch, one_thread):
    from zhaiju.corpus.embed import load_embedding

    monkeypatch.chdir(encoder.parent)
    index = Index.open(str(tmp_path / "index"), create=True, embedding=load_embedding("bert"))
    index.commit([entry("a.txt", BOATS, BOOKS, TEA)])
    monkeypatch.chdir(encoder)
    index = Index.open(str(tmp_path / "index"), embedding=load_embedding("../bert"))
    assert texts(index.search(BOOKS, 1)) == [BOOKS]


def test_no_encoder_is_told():
    from zhaiju.corpus.embed import load_embedding

    with pytest.raises(CheckpointError, match="no such directory"):
        load_embedding("/nowhere/bert")


@pytest.mark.parametrize(
    "embed", [lambda texts: np.zeros((len(texts), 2)), lambda texts: np.full((len(texts), 3), np.nan)]
)
def test_bad_vectors_are_told(tmp_path, embed):
    index = Index.open(str(tmp_path), create=True, embedding=Embedding("bad", 3, embed))
    with pytest.raises(ConfigError, match="bad gave"):
        index.commit([entry("a.txt", BOATS)])
    assert index.documents() == []


# --- real data


@pytest.mark.slow
def test_index_finds_what_the_formula_finds(shared, tmp_path):
    contexts = json.loads((shared / "course" / "context.json").read_text("utf-8"))
    questions = json.loads((shared / "course" / "train.json").read_text("utf-8"))[:100]
    index = Index.open(str(tmp_path), create=True)
    for start_ in range(0, len(contexts), 250):
        part = range(start_, min(start_ + 250, len(contexts)))
        index.commit([Entry(str(place), "1", [Paragraph(contexts[place], str(place))]) for place in part])
        index.optimise()
    formula = BM25(contexts)
    for limit in (1, 4, 10):
        ours = [row["relevant"] in dict(formula.top(row["question"], limit)) for row in questions]
        names = [{found.paragraph.document for found in index.search(row["question"], limit)} for row in questions]
        found = [str(row["relevant"]) in some for row, some in zip(questions, names, strict=True)]
        assert np.mean(found) >= np.mean(ours) - 0.01
