"""Files made to harm whoever reads them: refused in one line, or read, within limits of time and memory.

Each list of files is read by one child process whose memory and computing time the system limits; see `hostile`.
What a reader may expect stands in SECURITY.md.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
import zlib

import pytest

import hostile
from hostile import (
    body,
    docx,
    entities,
    form,
    forms_in_forms,
    numbered,
    packed,
    pages,
    pdf,
    stream,
    tree_of_trees,
    zeros,
)
from zhaiju.errors import ConfigError

MIB = 1 << 20


def outcomes(folder, cases, **settings):
    """Write each case's file, read all in one child, and hold each outcome against what is expected."""
    paths = []
    for name, (content, _) in cases.items():
        path = folder / name
        path.write_bytes(content())
        paths.append(path)
    told = hostile.read_all(paths, **settings)
    wrong = [
        f"{path.name}: {text}\n    expected {expected}"
        for path, text, (_, expected) in zip(paths, told, cases.values(), strict=True)
        if not re.search(expected, text) or not text.startswith(("read: ", f"DataError: {path}"))
    ]
    assert not wrong, "\n".join(wrong)


EITHER = "."  # refused or read, as its library has it

DOCUMENTS = {
    "module": "zhaiju.corpus.documents",
    "function": "read_document",
    "prepare": "from functools import partial; from zhaiju.corpus.documents import Limits; "
    "read = partial(read, limits=Limits(max_seconds=1))",
}

PDFS = {
    "bomb.pdf": (lambda: pages(stream(zeros(128 * MIB), b"/Filter/FlateDecode")), "cannot be read as PDF"),
    "bomb-in-bomb.pdf": (
        lambda: pages(stream(zlib.compress(zeros(128 * MIB)), b"/Filter[/FlateDecode/FlateDecode]")),
        "cannot be read as PDF",
    ),
    "operators.pdf": (lambda: pages(packed(hostile.OPERATORS * 1_500_000)), "cannot be read as PDF"),
    "pages.pdf": (lambda: pages(packed(hostile.OPERATORS * 20_000), count=1_900), "takes too long to read"),
    "spaces.pdf": (lambda: pages(packed(b" " * 70_000_000), count=1_900), "takes too long to read"),
    "forms.pdf": (lambda: forms_in_forms(30), EITHER),
    "own-form.pdf": (
        lambda: pages(
            stream(b"/X Do"),
            form(b"/X Do /X Do", b"<</XObject<</X 6 0 R>>>>"),
            resources=b"<</XObject<</X 6 0 R>>>>",
        ),
        EITHER,
    ),
    "own-parent.pdf": (lambda: pdf([hostile.CATALOG, b"<</Type/Pages/Count 3/Kids[2 0 R 2 0 R]>>"]), EITHER),
    "tree.pdf": (lambda: tree_of_trees(40), "cannot be read as PDF"),
    "count.pdf": (
        lambda: pdf([hostile.CATALOG, b"<</Type/Pages/Count 2000000000/Kids[3 0 R]>>", b"<</Type/Page>>"]),
        EITHER,
    ),
    "font.pdf": (lambda: pages(stream(hostile.OPERATORS), stream(hostile.WIDE_MAP), font=hostile.WIDE_FONT), EITHER),
    "array.pdf": (lambda: pages(stream(b"[" * 100_000 + b"]" * 100_000 + b" TJ")), EITHER),
    "nested.pdf": (
        lambda: pdf([b"<</Type/Catalog/Pages 2 0 R/X " + b"[" * 200_000 + b"]" * 200_000 + b">>", b"<</Type/Pages>>"]),
        EITHER,
    ),
    "previous.pdf": (lambda: pages(stream(b"")).replace(b"<</Size", b"<</Prev 9/Size"), EITHER),
    "text.pdf": (lambda: pages(stream(b"(" * MIB)), EITHER),
    "objects.pdf": (lambda: b"%PDF-1.4\n" + b"1 0 obj " * MIB, "cannot be read as PDF"),
}

DOCXS = {
    "bomb.docx": (lambda: docx(bytes(MIB) for _ in range(128)), "to 1, expected at most 300 to 1"),
    "lying.docx": (lambda: hostile.understated(docx(bytes(MIB) for _ in range(128)), 1_000), "cannot be read as DOCX"),
    "nested.docx": (
        lambda: docx(body(b"<w:p><w:r><w:t>a</w:t></w:r></w:p>"), more=[("word/embeddings/a.zip", zeros(128 * MIB))]),
        r"read: \[Paragraph\(text='a', ",
    ),
    "elements.docx": (lambda: docx(body(*numbered(480_000, b"<w:p/>" * 16))), "marks in its XML"),
    "attributes.docx": (lambda: docx(body(*numbered(390_000, b'<w:p a="" b="" c="" d=""/>' * 4))), "marks in its XML"),
    "deep.docx": (lambda: docx(body(b"<w:sdt>" * 100_000)), "cannot be read as DOCX"),
    "deep-wide.docx": (
        lambda: docx(body(b"<w:sdt>" * 240, *numbered(200_000, b"<w:p/>"), b"</w:sdt>" * 240)),
        EITHER,
    ),
    "tables.docx": (
        lambda: docx(
            body(
                b"<w:tbl><w:tr><w:tc>" * 80,
                *numbered(40_000, b"<w:p><w:r><w:t>", b"%016x</w:t></w:r></w:p>"),
                b"</w:tc></w:tr></w:tbl>" * 80,
            )
        ),
        EITHER,
    ),
    "laughs.docx": (
        lambda: docx(body(b"<w:p><w:r><w:t>&e11;</w:t></w:r></w:p>", before=entities(11))),
        "cannot be read as DOCX",
    ),
    "entity.docx": (
        lambda: docx(
            body(
                b"<w:p><w:r><w:t>a &e; b</w:t></w:r></w:p>",
                before='<?xml version="1.0"?><!DOCTYPE d [<!ENTITY e SYSTEM "/etc/passwd">]>',
            )
        ),
        r"read: \[Paragraph\(text='a', ",
    ),
    "utf7.docx": (
        lambda: docx(body(b"+ADw-w:p/+AD4-", before='<?xml version="1.0" encoding="UTF-7"?>')),
        "XML in a strange encoding, found 'UTF-7', expected UTF-8 or UTF-16",
    ),
    "ebcdic.docx": (
        lambda: docx([f"<?xml version='1.0'?><w:document {hostile.NAMESPACE}/>".encode("cp500")]),
        "XML in a strange encoding, found 'EBCDIC'",
    ),
}

OTHERS = {
    "zeros.txt": (lambda: bytes(16 * MIB), "is no text, found NUL at character 0"),
    "deep.json": (lambda: b'["a",' + b"[" * 100_000 + b"]" * 100_000 + b"]", "cannot be read as JSON"),
    "string.json": (lambda: b'["' + b"a" * (25 * MIB) + b'"]', "is too large, found 26,214,404 characters"),
    "digits.json": (lambda: b'["a",' + b"9" * MIB + b"]", "cannot be read as JSON"),
    "breaks.html": (lambda: b"<br>" * 2_000_000, "takes too long to read"),
    "attributes.html": (lambda: b"<p" + b" a" * 9_000_000 + b">x", "read: "),
    "paragraphs.html": (lambda: b"<p>a" * 1_000_000, "takes too long to read"),
    "marks.html": (lambda: b"<" * 9_000_000, "9,000,000 marks, expected at most 8,000,000"),
    "deep.html": (lambda: b"<div>" * 100_000, "tags are nested too deeply"),
    "quotes.md": (lambda: b">" * 100_000 + b" a", EITHER),
    "lists.md": (lambda: b"".join(b" " * index + b"- a\n" for index in range(1_000)), EITHER),
    "brackets.md": (lambda: b"[" * 500_000, EITHER),
    "emphasis.md": (lambda: b"*a_ " * 200_000, EITHER),
    "links.md": (lambda: b"[a](" * 200_000, EITHER),
    "backticks.md": (lambda: b" ".join(b"`" * length for length in range(1, 1_000)), EITHER),
}


# --- data files

DATA = {
    "module": "zhaiju.data.formats",
    "function": "read_qa",
    "prepare": "import zhaiju.data.jsonstream as reading; reading.MAX_VALUE_CHARS = 1 << 22; "
    "whole = read; read = lambda path: len(list(whole(path)))",
}

ROW = '{"id": "1", "question": "誰？", "context": "張三。", "answers": []}'
DATA_FILES = {
    "deep.json": (lambda: b'[{"id": ' + b"[" * 100_000, "nested too deeply at line 1 column"),
    "deep.jsonl": (lambda: b'{"id": ' + b"[" * 100_000, "nested too deeply"),
    "deep-squad.json": (lambda: b'{"data": [{"paragraphs": [' + b'{"a":' * 100_000, "nested too deeply"),
    "string.json": (
        lambda: b'[{"id": "' + b"a" * (16 * MIB),
        "a value is too long at line 1 column 2, expected at most",
    ),
    "string.jsonl": (lambda: b'{"id": "' + b"a" * (16 * MIB), "line 1: a line is too long, expected at most"),
    "key.json": (lambda: b'{"' + b"a" * (16 * MIB), "a value is too long"),
    "spaces.json": (lambda: b"[" + b" " * (16 * MIB), "the file ends too early"),
    "nothing.json": (lambda: b"[" + b"0," * MIB, "wrong type"),
    "zeros.json": (lambda: bytes(16 * MIB), "not a data file"),
    "zeros.jsonl": (lambda: bytes(16 * MIB), "a line is too long"),
    "digits.json": (lambda: b'[{"id": ' + b"9" * MIB + b"}]", "not JSON"),
    "fine.json": (lambda: f"[{ROW}]".encode(), "read: 1"),
}


def test_data_made_to_harm_is_refused_in_time_and_memory(tmp_path):
    outcomes(tmp_path, DATA_FILES, **DATA)


@pytest.mark.slow
def test_a_value_of_a_quarter_gigabyte_is_refused(tmp_path):
    """With the limits as they are."""
    path = tmp_path / "long.json"
    with path.open("wb") as file:
        file.write(b'[{"id": "')
        for _ in range(256):
            file.write(b"a" * MIB)
    told = hostile.read_all([path], **DATA | {"prepare": "whole = read; read = lambda path: len(list(whole(path)))"})
    assert "a value is too long at line 1 column 2, expected at most 67,108,864 characters" in told[0]


def test_settings_nested_too_deeply_are_refused(tmp_path):
    from zhaiju.config import load_settings
    from zhaiju.training.recipe import load_recipe

    file = tmp_path / "deep.toml"
    file.write_text("lr = " + "[" * 100_000, "utf-8")
    for load in (lambda: load_settings(file, {}), lambda: load_recipe(str(file))):
        with pytest.raises(ConfigError) as raised:
            load()
        assert str(file) in str(raised.value)
        assert len(str(raised.value)) < 400


# --- checkpoints

CHECKPOINTS = {
    "module": "zhaiju.modeling.checkpoint",
    "function": "load",
    "prepare": "from functools import partial; import transformers, torch; "
    "from transformers import BertForQuestionAnswering, BertTokenizer; "
    "read = partial(read, task='read', window=64)",
}


def change(name, **values):
    def changed(folder):
        file = folder / name
        file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | values), "utf-8")

    return changed


def write(name, content):
    def written(folder):
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_bytes(content() if callable(content) else content)

    return written


def link(name, target):
    def linked(folder):
        (folder / name).unlink()
        (folder / name).symlink_to(target)

    return linked


def pipe(name):
    def made(folder):
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return made


def header(told, data=b"", **about):
    return write("model.safetensors", lambda: hostile.safetensors(told, data, **about))


def pickled(weights):
    """In the place of safetensors a pytorch_model.bin, its zeros packed."""

    def made(folder):
        import torch
        from safetensors.torch import load_file

        known = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        torch.save(known | weights(torch), folder / "whole.bin")
        with (
            zipfile.ZipFile(folder / "whole.bin") as source,
            zipfile.ZipFile(folder / "pytorch_model.bin", "w", zipfile.ZIP_DEFLATED) as target,
        ):
            for name in source.namelist():
                target.writestr(name, source.read(name))
        (folder / "whole.bin").unlink()

    return made


def vocabulary(folder):
    """A tokenizer of more than `SMALL_BYTES`."""
    file = folder / "tokenizer.json"
    told = json.loads(file.read_text("utf-8"))
    told["model"]["vocab"] |= {f"{'x' * 60}{index:07d}": 1_000 + index for index in range(900_000)}
    file.write_text(json.dumps(told), "utf-8")


DEEP = b"[" * 100_000 + b"]" * 100_000
LONG = b'{"a": "' + b"a" * (65 * MIB) + b'"}'
PASSWD = "/etc/passwd"
BROKEN = {
    "hidden": (change("config.json", hidden_size=10**9), "hidden_size in config.json is 1000000000, expected at most"),
    "wide": (change("config.json", hidden_size=60_000, intermediate_size=60_000), "other shapes than its config.json"),
    "layers": (change("config.json", num_hidden_layers=10**6), "num_hidden_layers in config.json is 1000000"),
    "heads": (change("config.json", num_attention_heads=10**6), "num_attention_heads in config.json is 1000000"),
    "words": (change("config.json", vocab_size=10**10), "vocab_size in config.json is 10000000000"),
    "many-words": (change("config.json", vocab_size=16_000_000), "other shapes than its config.json"),
    "positions": (change("config.json", max_position_embeddings=10**9), "max_position_embeddings in config.json"),
    "types": (change("config.json", type_vocab_size=16_000_000), "other shapes than its config.json"),
    "labels": (change("config.json", num_labels=10**9), "num_labels in config.json is 1000000000"),
    "inside": (change("config.json", text_config={"num_hidden_layers": 10**6}), "num_hidden_layers in config.json"),
    "infinite": (change("config.json", hidden_size=float("inf")), "hidden_size in config.json is inf"),
    "sines": (
        change("config.json", model_type="roformer", max_position_embeddings=10**6, hidden_size=10**4),
        "max_position_embeddings x hidden_size",
    ),
    "sines-of-usual-width": (
        write("config.json", b'{"model_type": "roformer", "max_position_embeddings": 10000000}'),
        "max_position_embeddings x hidden_size",
    ),
    "sines-of-another-name": (
        write("config.json", b'{"model_type": "distilbert", "max_position_embeddings": 1000000, "dim": 10000}'),
        "max_position_embeddings x hidden_size",
    ),
    "deep-config": (write("config.json", b'{"model_type": "bert", "a": ' + DEEP + b"}"), "cannot load"),
    "long-config": (write("config.json", LONG), "config.json is too large, found 68,157,449 bytes"),
    "endless-config": (link("config.json", "/dev/zero"), "holds no checkpoint: expected config.json"),
    "deep-meta": (write("zhaiju.json", DEEP), "zhaiju.json cannot be read: nested too deeply"),
    "long-meta": (write("zhaiju.json", LONG), "zhaiju.json is too large"),
    "deep-tokenizer": (write("tokenizer.json", DEEP), "cannot load"),
    "deep-names": (write("tokenizer_config.json", DEEP), "cannot load"),
    "vocabulary": (vocabulary, r"tokenizer.json is too large, found [\d,]+ bytes, expected at most 67,108,864"),
    "endless-tokenizer": (link("tokenizer.json", "/dev/zero"), "tokenizer.json is no plain file"),
    "pipe-tokenizer": (pipe("tokenizer.json"), "tokenizer.json is no plain file"),
    "loop-tokenizer": (link("tokenizer.json", "tokenizer.json"), "tokenizer.json cannot be read: Too many levels"),
    "padding": (
        change(
            "tokenizer.json",
            padding={
                "strategy": {"Fixed": 10**12},
                "direction": "Right",
                "pad_to_multiple_of": None,
                "pad_id": 0,
                "pad_type_id": 0,
                "pad_token": "[PAD]",
            },
        ),
        "read: ",
    ),
    "pipe-weights": (pipe("model.safetensors"), "model.safetensors is no plain file"),
    "endless-weights": (link("model.safetensors", "/dev/zero"), "model.safetensors is no plain file"),
    "header-length": (header({}, length=2**63), "cannot load"),
    "header-spaces": (header(b"{" + b" " * (90 * MIB) + b"}"), "cannot load|lacks weights"),
    "header-deep": (header(b'{"a": ' + DEEP + b"}"), "cannot load"),
    "past-the-end": (
        header({"a": {"dtype": "F32", "shape": [10**9], "data_offsets": [0, 4 * 10**9]}}, b"x" * 8),
        "cannot load",
    ),
    "overlapping": (
        header(
            {
                "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
                "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
            },
            b"x" * 12,
        ),
        "cannot load",
    ),
    "type": (header({"a": {"dtype": "F99", "shape": [2], "data_offsets": [0, 8]}}, b"x" * 8), "cannot load"),
    "shape": (header({"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 8]}}, b"x" * 8), "cannot load"),
    "overflow": (
        header({"a": {"dtype": "F32", "shape": [2**62, 8], "data_offsets": [0, 8]}}, b"x" * 8),
        "cannot load",
    ),
    "parts-elsewhere": (
        lambda folder: (
            (folder / "model.safetensors").unlink(),
            (folder / "model.safetensors.index.json").write_text(
                json.dumps({"metadata": {}, "weight_map": {"bert.x": f"../../../../../../..{PASSWD}"}}), "utf-8"
            ),
        ),
        "cannot load (?!.*root:)",
    ),
    "bomb": (pickled(lambda torch: {"bomb": torch.zeros(64 * MIB)}), "unpacks to"),
    "fine": (lambda folder: None, "read: "),
}


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """A small checkpoint that reads."""
    from checkpoints import bert
    from zhaiju.modeling.checkpoint import Meta, load, save

    bare, folder = (tmp_path_factory.mktemp(name) for name in ("bare", "reader"))
    bert(bare)
    loaded = load(bare, "read", head_required=False, window=64, overlap=12)
    save(folder, loaded.network, loaded.encoding, Meta(task="read"))
    return folder


@pytest.mark.slow
def test_a_checkpoint_made_to_harm_is_refused_in_time_and_memory(reader, tmp_path):
    for name, (harm, _) in BROKEN.items():
        shutil.copytree(reader, tmp_path / name)
        harm(tmp_path / name)
    told = hostile.read_all([tmp_path / name for name in BROKEN], **CHECKPOINTS)
    wrong = [
        f"{name}: {text}\n    expected {expected}"
        for name, text, (_, expected) in zip(BROKEN, told, (BROKEN[name] for name in BROKEN), strict=True)
        if not re.search(expected, text) or not text.startswith(("CheckpointError: ", "read: "))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("backend", ["OnnxBackend", "OpenVinoBackend"])
@pytest.mark.parametrize(
    ("place", "offset", "length"),
    [(PASSWD, 0, 4), (f"../../../../../../../..{PASSWD}", 0, 4), ("x.bin", 0, 4 << 40), ("x.bin", 1 << 62, 4)],
)
def test_a_graph_whose_weights_are_said_to_be_elsewhere_is_refused(
    backend, place, offset, length, tmp_path, monkeypatch
):
    pytest.importorskip("onnx")
    if backend == "OpenVinoBackend":
        pytest.importorskip("openvino")
    from zhaiju.errors import CheckpointError
    from zhaiju.inference import backends

    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "x.bin").write_bytes(bytes(8))
    (tmp_path / "onnx" / "model.onnx").write_bytes(hostile.graph(place, offset, length))
    monkeypatch.chdir(tmp_path / "onnx")  # a relative place must not be looked for here either
    with pytest.raises(CheckpointError) as raised:
        getattr(backends, backend)(tmp_path, pad_id=0)
    message = str(raised.value)
    assert message.startswith(str(tmp_path))
    assert "\n" not in message
    assert len(message) > len(f"{tmp_path}: ")
    assert "root:" not in message


# --- folders

HELLO = "林師傅在河邊修船。\n"


def command(*arguments, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "zhaiju.cli", *map(str, arguments)],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.fixture
def trap(tmp_path):
    """A folder in which only one file ought to be read."""
    folder = tmp_path / "trap"
    folder.mkdir()
    (folder / "good.md").write_text(HELLO, "utf-8")
    (tmp_path / "outside.md").write_text("外面的祕密在船上。\n", "utf-8")
    (folder / "out.md").symlink_to("../outside.md")
    (folder / "passwd.txt").symlink_to(PASSWD)
    (folder / "round").symlink_to(EITHER)
    (folder / "self.md").symlink_to("self.md")
    (folder / "gone.md").symlink_to("nothing")
    (folder / "zero.txt").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe.txt")
    (folder / "bomb.docx").write_bytes(docx(bytes(MIB) for _ in range(8)))
    (folder / "red\x1b[31m\nname.txt").write_bytes(b"\0")
    return folder


def test_a_folder_of_traps_is_asked_without_its_links_pipes_and_bombs(trap):
    told = command("ask", "誰修船？", trap, "-n", "9", "--json")
    assert told.returncode == 0
    quotes = json.loads(told.stdout)["quotes"]
    assert {quote["document"] for quote in quotes} == {str(trap / "good.md")}
    lines = told.stderr.splitlines()
    passed = {
        name for name in os.listdir(trap) if any(f"/{name}: passed over, a symbolic link" in line for line in lines)
    }
    assert passed == {"out.md", "passwd.txt", "round", "self.md", "gone.md", "zero.txt"}
    assert any("bomb.docx: is too large" in line for line in lines)
    assert any(r"/red\x1b[31m name.txt: is no text" in line for line in lines)
    assert len(lines) == 8
    assert "\x1b" not in told.stderr


@pytest.mark.parametrize(("name", "message"), [("zero.txt", "is too large"), ("self.md", "cannot be read")])
def test_a_trap_that_is_named_itself_is_refused(trap, name, message):
    told = command("ask", "誰修船？", trap / name)
    assert (told.returncode, told.stdout) == (2, "")
    assert message in told.stderr
    assert told.stderr.count("\n") == 1


def test_a_folder_of_traps_is_indexed_without_them_and_names_are_shown_harmlessly(trap, tmp_path):
    pytest.importorskip("lancedb")
    (trap / "blue\x1b[34m\nname.md").write_text("陳師傅在河邊釣魚。\n", "utf-8")
    made = command("index", trap, "-o", tmp_path / "made.index")
    assert (made.returncode, "\x1b" in made.stdout + made.stderr) == (0, False)
    for flags in ([], ["--json"]):
        listed = command("index", "-o", tmp_path / "made.index", "--list", *flags)
        assert listed.returncode == 0
        assert "good.md" in listed.stdout
        assert "\x1b" not in listed.stdout
        assert "outside" not in listed.stdout
    asked = command("ask", "誰釣魚？", "--index", tmp_path / "made.index")
    assert asked.returncode == 0
    assert "\x1b" not in asked.stdout + asked.stderr
    assert "陳師傅" in asked.stdout


# --- documents


@pytest.mark.slow
def test_a_pdf_made_to_harm_is_refused_or_read_in_time_and_memory(tmp_path):
    outcomes(tmp_path, PDFS, **DOCUMENTS)


def test_a_docx_made_to_harm_is_refused_or_read_in_time_and_memory(tmp_path):
    outcomes(tmp_path, DOCXS, **DOCUMENTS)


@pytest.mark.slow
def test_texts_and_pages_made_to_harm_are_refused_or_read_in_time_and_memory(tmp_path):
    outcomes(tmp_path, OTHERS, **DOCUMENTS)
