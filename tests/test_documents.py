import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zhaiju.corpus import documents
from zhaiju.corpus.documents import Limits, Paragraph, cut, find_documents, read_document, read_stdin
from zhaiju.errors import ConfigError, DataError

HANDS = "渡口的老船工每天清早先看水色，再看雲腳，然後才肯解纜。若是東風帶著土腥味，他便把船拴緊，坐在石階上補網。"
TEA = "山腰上的茶園由三戶人家合管，春天採頭茬，秋天剪老枝。收來的葉子先晾半日，再下鍋輕炒，火候全憑手背去試。"
SIMPLE = "这座石桥有七个桥洞，最大的一个可以过船。每年夏天涨水的时候，孩子们都坐在桥上看水，大人在桥下收网。"
ENGLISH = (
    "The lamp at the end of the pier was lit by hand until the winter of the great storm, when the keeper, an old "
    "woman who had never once missed an evening, moved it into her kitchen window and let the boats steer by that "
    "instead."
)


@pytest.fixture
def write(tmp_path):
    def writer(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return writer


def texts(paragraphs):
    return [paragraph.text for paragraph in paragraphs]


def places(paragraphs):
    return [(paragraph.text, paragraph.line) for paragraph in paragraphs]


def from_text(text, **limits):
    return read_stdin(io.BytesIO(text.encode()), limits=Limits(**limits))


def visible(text):
    return "".join(text.split())


# --- where documents are


def no_warning(message):
    raise AssertionError(message)


def found(*paths, warn=no_warning):
    return list(find_documents(paths, warn=warn))


def test_folders_are_walked_in_order_and_only_for_documents(write, tmp_path):
    for name in ["b.txt", "a/z.md", "a/y.HTML", "a.txt", ".hidden.txt", ".git/x.txt", "photo.png", "rows.jsonl"]:
        write(name, HANDS)
    write("context.json", json.dumps([HANDS]))
    write("train.json", json.dumps([{"id": 1}]))
    names = [str(path.relative_to(tmp_path)) for path in found(tmp_path)]
    assert names == ["a/y.HTML", "a/z.md", "a.txt", "b.txt", "context.json"]


def test_files_are_taken_as_named_and_each_once(write, tmp_path):
    path = write("notes", HANDS)
    inside = write("folder/a.txt", HANDS)
    assert found("-", path, inside, tmp_path / "folder", str(path))[1:] == [path, inside]


def test_links_and_pipes_in_a_folder_are_passed_over(write, tmp_path):
    kept = write("docs/a.txt", HANDS)
    write("secret/b.txt", HANDS)
    (tmp_path / "docs" / "loop").symlink_to(tmp_path / "docs")
    (tmp_path / "docs" / "out.txt").symlink_to(tmp_path / "secret" / "b.txt")
    os.mkfifo(tmp_path / "docs" / "pipe.txt")
    warnings = []
    assert found(tmp_path / "docs", warn=warnings.append) == [kept]
    assert [line.split(": ")[1] for line in warnings] == ["passed over, a symbolic link"] * 2


def test_a_folder_deeper_than_the_stack_is_walked(tmp_path):
    here, depth = os.getcwd(), 0
    os.chdir(tmp_path)
    try:
        while depth < 1_200:
            os.mkdir("d")
            os.chdir("d")
            depth += 1
        Path("a.txt").write_text("x", "utf-8")
        assert len(found(tmp_path)) == 1
    finally:  # pytest would remove it by recursion
        Path("a.txt").unlink(missing_ok=True)
        for _ in range(depth):
            os.chdir("..")
            os.rmdir("d")
        os.chdir(here)


def test_a_folder_that_cannot_be_listed_is_passed_over_unless_it_was_named(write, tmp_path, monkeypatch):
    write("docs/locked/a.txt", HANDS)
    kept = write("docs/b.txt", HANDS)
    scandir = os.scandir

    def denied(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    warnings = []
    assert found(tmp_path, warn=warnings.append) == [kept]
    assert warnings == [f"{tmp_path}/docs/locked: passed over, Permission denied"]
    with pytest.raises(DataError, match="locked: cannot be read, found Permission denied"):
        found(tmp_path / "docs" / "locked")


@pytest.mark.parametrize("name", ["nothing.txt", "a\0b", "x" * 5_000])
def test_a_path_that_is_not_there_is_named(name, tmp_path):
    with pytest.raises(DataError, match=r"no such file|cannot be read"):
        found(tmp_path / name)


def test_no_document_at_all_says_what_is_read(tmp_path):
    with pytest.raises(DataError, match=r"no document found.*\.pdf.*\.docx"):
        found(tmp_path)


# --- plain text


def test_a_blank_line_ends_a_paragraph():
    assert places(from_text(f"\n{HANDS}\n \t\n\n{TEA}\n")) == [(HANDS, 2), (TEA, 5)]


@pytest.mark.parametrize("newline", ["\r\n", "\r", "\n"])
def test_line_ends_of_every_system(newline):
    assert places(from_text(newline.join([HANDS, "", TEA, ""]))) == [(HANDS, 1), (TEA, 3)]


def test_long_lines_without_blank_ones_are_paragraphs():
    assert places(from_text(f"{HANDS}\n{TEA}\n短句。\n{SIMPLE}")) == [(HANDS, 1), (TEA, 2), ("短句。", 3), (SIMPLE, 4)]


def test_hard_wrapped_chinese_is_joined_without_spaces():
    text = HANDS + TEA
    wrapped = "\n".join(text[at : at + 30] for at in range(0, len(text), 30))
    assert places(from_text(wrapped)) == [(text, 1)]


@pytest.mark.parametrize("width", [60, 72, 100])
def test_hard_wrapped_english_is_joined_with_spaces(width):
    import textwrap

    assert places(from_text("\n\n" + textwrap.fill(ENGLISH, width))) == [(ENGLISH, 3)]


def test_a_verse_keeps_its_lines():
    assert texts(from_text("甲橋東\n乙橋西\n\nOne boat,\ntwo boats on the water,\nnone")) == [
        "甲橋東\n乙橋西",
        "One boat,\ntwo boats on the water,\nnone",
    ]


def test_an_ideographic_indent_begins_a_paragraph():
    text = "　　" + HANDS[:30] + "\n" + HANDS[30:] + "\n　　" + TEA[:30] + "\n" + TEA[30:]
    assert places(from_text(text)) == [(HANDS, 1), (TEA, 3)]


def test_long_paragraphs_are_cut_at_sentences_with_the_line_of_each_piece():
    sentences = [f"第{chr(0x4E00 + number)}位船工說：“今天的水比昨天高了一寸，網要收得早些。”" for number in range(60)]
    text = "".join(sentences)
    wrapped = "\n".join(text[at : at + 40] for at in range(0, len(text), 40))
    paragraphs = from_text(wrapped, max_paragraph_characters=300)
    assert "".join(texts(paragraphs)) == text
    assert all(len(paragraph.text) <= 300 and paragraph.text.endswith("”") for paragraph in paragraphs)
    begins = 0
    for paragraph in paragraphs:
        assert paragraph.line == begins // 40 + 1
        begins += len(paragraph.text)


@settings(deadline=None)
@given(st.text(st.sampled_from("甲乙。！”，a b.\n é\u0301"), max_size=200), st.integers(1, 40))
def test_pieces_together_are_the_text(text, limit):
    pieces = cut(text, limit)
    assert "".join(pieces) == text
    assert all(len(piece) <= limit for piece in pieces)
    assert all(pieces) or pieces == [""]


CHARACTERS = st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=["Cs"])
LINES = st.text(st.one_of(st.sampled_from("船水。，a .\u3000\n\r"), CHARACTERS), max_size=300)


@settings(deadline=None)
@given(st.one_of(LINES, st.lists(st.sampled_from([HANDS, TEA, ENGLISH, "", "短"])).map("\n".join)), st.integers(1, 60))
def test_no_character_is_lost_and_lines_are_right(text, limit):
    paragraphs = from_text(text, max_paragraph_characters=limit)
    plain = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    assert visible("".join(texts(paragraphs))) == visible(plain)
    lines = plain.split("\n")
    for paragraph in paragraphs:
        begin = paragraph.text.lstrip().split("\n")[0][:1]
        assert begin in lines[paragraph.line - 1]
    numbers = [paragraph.line for paragraph in paragraphs]
    assert numbers == sorted(numbers)


def test_lines_of_pieces_are_exact():
    words = [f"w{number}" for number in range(3_000)]
    lines = ["".join(f"{word} " for word in words[at : at + 12]).strip() for at in range(0, 3_000, 12)]
    for paragraph in from_text("\n".join(lines), max_paragraph_characters=100):
        assert paragraph.text.split()[0] in lines[paragraph.line - 1].split()


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16", "gb18030", "big5"])
@pytest.mark.parametrize("text", [HANDS, TEA, HANDS[:12], "茶園。"])
def test_traditional_text_in_each_encoding(write, codec, text):
    if codec == "gb18030" and len(text) < 20:
        pytest.skip("too short to tell")
    assert texts(read_document(write("a.txt", text.encode(codec)))) == [text]


@pytest.mark.parametrize("codec", ["utf-8", "utf-16", "gbk", "gb18030"])
@pytest.mark.parametrize("text", [SIMPLE, SIMPLE[:12], "石桥。"])
def test_simplified_text_in_each_encoding(write, codec, text):
    assert texts(read_document(write("a.txt", text.encode(codec)))) == [text]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (HANDS.encode()[:-1], "at byte"),
        (HANDS[:6].encode()[:-1], "at byte 15"),
        ("naïve café déjà".encode("latin-1"), "EF 76 65 20 at byte 2"),
        (b"\xef\xbb\xbfab\xff", "FF at byte 5"),
        (b"\xff\xfea", "at byte 2"),
        (b"abc\0def", "NUL at character 3"),
        (bytes(range(128, 256)), "is no text"),
    ],
)
def test_what_is_no_text_is_refused_with_its_place(write, content, message):
    path = write("a.txt", content)
    with pytest.raises(DataError, match=message) as caught:
        read_document(path)
    assert caught.value.file == str(path)


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.html", "notes"])
def test_an_empty_file_has_no_paragraph(write, name):
    assert read_document(write(name, b"")) == []
    assert read_document(write(name, b"\xef\xbb\xbf \n\n")) == []


def test_an_unknown_suffix_is_text_if_it_is_text(write):
    assert texts(read_document(write("a.rst", HANDS))) == [HANDS]
    with pytest.raises(DataError, match="NUL"):
        read_document(write("a.doc", b"\xd0\xcf\x11\xe0\0\0"[4:] + b"abc"))


# --- JSON


def test_a_list_of_texts_is_paragraphs_by_index(write):
    paragraphs = read_document(write("context.json", json.dumps([HANDS, " ", TEA + "\n"])))
    assert [(p.text, p.number, p.line) for p in paragraphs] == [(HANDS, 0, None), (TEA + "\n", 2, None)]
    assert paragraphs[1].source.endswith("context.json[2]")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", '{"data": []}', "a JSON list of texts"),
        ("a.json", '["a", 1]', "a JSON list of texts"),
        ("a.json", '["a"', "cannot be read as JSON"),
        ("a.json", "[" * 100_000, "cannot be read as JSON"),
        ("a.json", '["a", "\\ud800"]', "row 1.*surrogate"),
        ("a.jsonl", '"a"\n', "holds data, not paragraphs"),
    ],
)
def test_other_json_is_refused(write, name, content, message):
    with pytest.raises(DataError, match=message):
        read_document(write(name, content))


# --- Markdown


def test_markdown_is_read_without_its_markup(write):
    path = write(
        "a.md",
        f"# 渡口 *舊事*\n\n{HANDS[:20]}**{HANDS[20:25]}**\n{HANDS[25:]}\n\n## Lamp\n\nSee [the pier](http://x.y) and\n"
        "`code`, ![a *lamp*](l.png).  \nNext <b>line</b><br>end &amp; more\n",
    )
    paragraphs = read_document(path)
    assert places(paragraphs) == [
        (HANDS, 3),
        ("See the pier and code, a lamp.\nNext line\nend & more", 8),
    ]
    assert [paragraph.heading for paragraph in paragraphs] == ["渡口 舊事", "Lamp"]
    assert paragraphs[0].source == f"{path}:3"


def test_a_heading_with_nothing_below_it_is_a_paragraph(write):
    paragraphs = read_document(write("a.md", "# One\n\n## Two\n\ntext\n\n# Three\n"))
    assert [(p.text, p.line, p.heading) for p in paragraphs] == [
        ("One", 1, None),
        ("text", 5, "Two"),
        ("Three", 7, None),
    ]


def test_short_items_are_joined_and_long_ones_are_not(write):
    long = ENGLISH
    paragraphs = read_document(write("a.md", f"- 甲\n- 乙\n  1. 丙\n- {long}\n- 丁\n\ntext\n"))
    assert places(paragraphs) == [("甲\n乙\n丙", 1), (long, 4), ("丁", 5), ("text", 7)]


def test_tables_code_and_html_in_markdown(write):
    text = (
        "|船|人|\n|-|-|\n|大|*三*|\n||一|\n\n```py\nx = 1\n\n  y\n```\n\n<!-- no -->\n\n<div>\n<p>甲</p>\n乙\n</div>\n"
    )
    paragraphs = read_document(write("a.md", text))
    assert places(paragraphs) == [("船 | 人\n大 | 三\n | 一", 1), ("x = 1\n\n  y", 7), ("甲", 14), ("乙", 14)]


def test_pieces_of_a_long_table_know_their_line(write):
    rows = "".join(f"|row {number}|value {number}|\n" for number in range(100))
    paragraphs = read_document(write("a.md", "|a|b|\n|-|-|\n" + rows), limits=Limits(max_paragraph_characters=200))
    assert len(paragraphs) > 5
    for paragraph in paragraphs[1:]:
        first = paragraph.text.split("\n")[0]
        assert first == f"row {paragraph.line - 3} | value {paragraph.line - 3}"


def test_front_matter_is_a_paragraph_and_no_heading(write):
    paragraphs = read_document(write("a.md", f"---\ntitle: 渡口\ntags: a\n---\n{HANDS}\n"))
    assert [(p.text, p.line, p.heading) for p in paragraphs] == [("title: 渡口\ntags: a", 2, None), (HANDS, 5, None)]


@pytest.mark.parametrize(
    "content", [">" * 5_000 + "x", "- " * 3_000 + "x", "[" * 20_000, "![" * 3_000 + "](a)" * 3_000]
)
def test_hostile_markdown_is_read_or_refused(write, content):
    try:
        paragraphs = read_document(write("a.md", content))
    except DataError:
        return
    assert paragraphs


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text(st.sampled_from("船水a 。é"), min_size=1).map(str.strip).filter(bool), max_size=8), st.data())
def test_markdown_loses_nothing(blocks, data):
    marks = [data.draw(st.sampled_from(["", "# ", "- ", "> ", "1. "])) for _ in blocks]
    source = "\n\n".join(mark + block for mark, block in zip(marks, blocks, strict=True))
    collector = documents._Collector("a.md", Limits())
    paragraphs = documents._read_markdown(source.encode(), collector)
    seen = "\n".join(visible(f"{paragraph.heading or ''}\n{paragraph.text}") for paragraph in paragraphs)
    assert all(visible(block) in seen for block in blocks)


# --- HTML


def test_html_gives_what_a_reader_sees(write):
    path = write(
        "a.html",
        f"<title>no</title><style>p{{}}</style><body><h1>渡&#21475;</h1><p>{HANDS[:10]}\n   <b>{HANDS[10:]}</b></p>"
        "<script>no()</script><noscript>no</noscript><template><p>no</p></template><p hidden>no</p>"
        '<div style="display: none"><p>no</p></div><!-- no -->loose  &amp;\nfree<div>inner</div>tail<br>line<br><br>'
        "after<pre>a\n  b</pre></body>",
    )
    paragraphs = read_document(path)
    assert [(p.text, p.number) for p in paragraphs] == [
        (HANDS, 2),
        ("loose & free", 3),
        ("inner", 4),
        ("tail\nline", 5),
        ("after", 6),
        ("a\n  b", 7),
    ]
    assert {paragraph.heading for paragraph in paragraphs} == {"渡口"}
    assert paragraphs[0].source == f"{path} ¶2"


def test_html_lists_and_tables(write):
    paragraphs = read_document(
        write(
            "a.htm",
            f"<ul><li>甲<li>乙<ol><li>丙</ol></ul><ul><li>{ENGLISH}</ul><table><caption>Boats</caption><tr><th>a<th>b"
            "<tr><td>c<br>d<td><tr><td><p>e</p><p>f</p><td>g</table>end",
        )
    )
    assert texts(paragraphs) == ["甲\n乙\n丙", ENGLISH, "Boats\na | b\nc d | \ne f | g", "end"]


def test_a_table_for_layout_is_no_table(write):
    html = f"<table><tr><td><h2>Top</h2><p>{HANDS}</p><table><tr><td>x<td>y</table><td>{TEA}</table>"
    paragraphs = read_document(write("a.xhtml", html))
    assert texts(paragraphs) == [HANDS, "x | y", TEA]
    assert paragraphs[0].heading == "Top"


@pytest.mark.parametrize(
    ("codec", "declared"),
    [("big5", "big5"), ("gbk", "gb2312"), ("gbk", ""), ("utf-8", "big5"), ("utf-16", ""), ("shift_jis", "Shift_JIS")],
)
def test_html_in_the_encoding_it_declares_or_not(write, codec, declared):
    text = "橋の下" if codec == "shift_jis" else SIMPLE[:4] if codec == "gbk" else HANDS
    html = f'<meta http-equiv="Content-Type" content="text/html; charset={declared}"><p>{text}</p>'
    assert texts(read_document(write("a.html", html.encode(codec)))) == [text]


def test_deep_html_is_read_up_to_a_depth_and_then_refused(write):
    assert texts(read_document(write("a.html", "<div>" * 3_000 + "x"))) == ["x"]
    with pytest.raises(DataError, match="nested too deeply"):
        read_document(write("a.html", "<div>" * 1_000_000))


@settings(deadline=None, max_examples=50)
@given(st.text(st.sampled_from("船水a 。<>/pbtdrul&;! \n="), max_size=80))
def test_any_html_is_read(text):
    documents._read_html(text.encode(), documents._Collector("a.html", Limits()))


# --- PDF


def pdf(pages, font=True):
    """A PDF with a font of two-byte codes that are the characters; each page is a list of lines."""
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", ""]
    kids = []
    cmap = (
        "/CIDInit /ProcSet findresource begin begincmap 1 begincodespacerange <0000> <FFFF> endcodespacerange "
        "1 beginbfrange <0000> <FFFF> <0000> endbfrange endcmap end"
    )
    objects += [
        "<< /Type /Font /Subtype /Type0 /BaseFont /Own /Encoding /Identity-H /DescendantFonts [4 0 R] "
        "/ToUnicode 5 0 R >>",
        "<< /Type /Font /Subtype /CIDFontType2 /BaseFont /Own /DW 1000 "
        "/CIDSystemInfo << /Registry (Adobe) /Ordering (Identity) /Supplement 0 >> >>",
        f"<< /Length {len(cmap)} >>\nstream\n{cmap}\nendstream",
    ]
    for lines in pages:
        drawn = " ".join(f"<{line.encode('utf-16-be').hex()}> Tj 0 -14 Td" for line in lines)
        content = f"BT /F1 10 Tf 50 700 Td {drawn} ET" if font else "0 0 m 9 9 l S"
        kids.append(f"{len(objects) + 1} 0 R")
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents {len(objects) + 2} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>"
        )
        objects.append(f"<< /Length {len(content)} >>\nstream\n{content}\nendstream")
    objects[1] = f"<< /Type /Pages /Count {len(kids)} /Kids [{' '.join(kids)}] >>"
    out = b"%PDF-1.4\n"
    offsets = []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(out))
        out += f"{number} 0 obj\n{body}\nendobj\n".encode()
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    trailer = f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{len(out)}\n%%EOF\n"
    return out + f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}".encode() + trailer.encode()


def lines_of(text, length):
    return [text[at : at + length] for at in range(0, len(text), length)]


def test_pdf_pages_give_joined_paragraphs(write):
    path = write("a.pdf", pdf([["第一章", *lines_of(HANDS, 22), *lines_of(TEA, 22)], [], lines_of(SIMPLE, 25)]))
    paragraphs = read_document(path)
    assert [(p.text, p.page) for p in paragraphs] == [("第一章\n" + HANDS, 1), (TEA, 1), (SIMPLE, 3)]
    assert paragraphs[2].source == f"{path} p. 3"


def test_english_pdf_lines_are_joined_with_spaces(write):
    import textwrap

    assert texts(read_document(write("a.pdf", pdf([textwrap.wrap(ENGLISH, 90)])))) == [ENGLISH]


def test_an_encrypted_pdf(write):
    from pypdf import PdfWriter

    def encrypted(password):
        writer = PdfWriter(clone_from=io.BytesIO(pdf([[SIMPLE]])))
        writer.encrypt(password, "owner", algorithm="RC4-128")
        stream = io.BytesIO()
        writer.write(stream)
        return stream.getvalue()

    assert texts(read_document(write("open.pdf", encrypted("")))) == [SIMPLE]
    with pytest.raises(DataError, match="is encrypted"):
        read_document(write("closed.pdf", encrypted("secret")))


def test_a_pdf_of_pictures_has_no_text_layer(write):
    with pytest.raises(DataError, match="has no text layer"):
        read_document(write("a.pdf", pdf([[], []], font=False)))


def test_a_damaged_pdf_is_read_or_refused_in_one_line(write, caplog):
    whole = pdf([[HANDS], [TEA]])
    refused = []
    for cut_at in [*range(0, len(whole), 97), 9]:
        try:
            read_document(write("a.pdf", whole[:cut_at]))
        except DataError as error:
            refused.append(str(error))
    assert len(refused) > 5
    assert not any("\n" in message for message in refused)
    assert not caplog.records


# --- DOCX


def docx(build):
    from docx import Document

    document = Document()
    build(document)
    stream = io.BytesIO()
    document.save(stream)
    return stream.getvalue()


def test_docx_in_the_order_of_the_body(write):
    def build(document):
        document.add_heading("渡口", 1)
        document.add_paragraph(HANDS)
        document.add_paragraph("")
        document.add_paragraph("甲", style="List Bullet")
        document.add_paragraph("乙", style="List Number")
        table = document.add_table(2, 2)
        for cell, text in zip(table._cells, ["船", "人", "大\n小", ""], strict=True):
            cell.text = text
        table.cell(1, 1).add_table(1, 1).cell(0, 0).text = "三"
        document.add_paragraph(TEA).add_run("\n尾").bold = True

    path = write("a.docx", docx(build))
    paragraphs = read_document(path)
    assert [(p.text, p.number, p.heading) for p in paragraphs] == [
        (HANDS, 2, "渡口"),
        ("甲\n乙", 3, "渡口"),
        ("船 | 人\n大 小 | 三", 5, "渡口"),
        (TEA + "\n尾", 6, "渡口"),
    ]
    assert paragraphs[0].source == f"{path} ¶2"


def test_docx_insertions_links_and_boxes_are_read_and_deletions_are_not(write):
    from docx.oxml import parse_xml

    spaces = (
        'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main" '
        'xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006"'
    )
    box = "<w:txbxContent><w:p><w:r><w:t>盒</w:t></w:r></w:p></w:txbxContent>"
    body = (
        f"<w:sdt {spaces}><w:sdtContent><w:p><w:ins><w:r><w:t>新</w:t></w:r></w:ins><w:del><w:r><w:delText>舊"
        "</w:delText></w:r></w:del><w:hyperlink><w:r><w:t>連</w:t><w:tab/><w:t>結</w:t></w:r></w:hyperlink>"
        f'<w:r><mc:AlternateContent><mc:Choice Requires="wps">{box}</mc:Choice><mc:Fallback>{box}</mc:Fallback>'
        "</mc:AlternateContent></w:r></w:p></w:sdtContent></w:sdt>"
    )
    content = docx(lambda document: document.element.body.insert(0, parse_xml(body)))
    assert texts(read_document(write("a.docx", content))) == ["新連\t結", "盒"]


def test_a_docx_of_headings_only(write):
    content = docx(lambda document: [document.add_heading(text, 1) for text in ("甲", "乙")])
    assert texts(read_document(write("a.docx", content))) == ["甲", "乙"]


def bomb(entries):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "limits", "message"),
    [
        (bomb([("word/document.xml", b" " * 8_000_000)]), Limits(), "to 1, expected at most 300 to 1"),
        (bomb([("a", b"0" * 600), ("b", b"1" * 600)]), Limits(max_unpacked_bytes=1_000), "1,200 bytes unpacked"),
        (bomb([(str(number), b"") for number in range(10_001)]), Limits(), "10,001 files"),
        (bomb([("a.txt", b"x")]), Limits(), "cannot be read as DOCX"),
        (b"PK\x03\x04", Limits(), "cannot be read as DOCX"),
        (docx(lambda document: document.add_paragraph(HANDS))[:-2_000], Limits(), "cannot be read as DOCX"),
        (b"", Limits(), "cannot be read as DOCX"),
    ],
)
def test_a_docx_that_is_none_or_too_much_is_refused(write, content, limits, message):
    with pytest.raises(DataError, match=message) as caught:
        read_document(write("a.docx", content), limits=limits)
    assert "\n" not in str(caught.value)


# --- limits, and what is imported


@pytest.mark.parametrize(
    ("name", "content", "limits", "message"),
    [
        ("a.txt", "x" * 11, Limits(max_file_bytes=10), "more than 10 bytes, expected at most 10"),
        ("a.txt", "船" * 11, Limits(max_characters=10), "11 characters, expected at most 10"),
        ("a.pdf", pdf([["a"], ["b"]]), Limits(max_pages=1), "2 pages, expected at most 1"),
        ("a.pdf", pdf([["a" * 11]]), Limits(max_characters=10), "11 characters"),
        ("a.docx", docx(lambda d: d.add_paragraph("x" * 11)), Limits(max_characters=10), "11 characters"),
    ],
)
def test_a_limit_is_named(write, name, content, limits, message):
    path = write(name, content)
    with pytest.raises(DataError, match=message) as caught:
        read_document(path, limits=limits)
    assert str(path) in str(caught.value)


def test_a_limit_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="max_pages must be at least 1, found 0"):
        Limits(max_pages=0)


def test_stdin_is_text_without_a_path():
    (paragraph,) = read_stdin(io.BytesIO(TEA.encode("big5")))
    assert paragraph == Paragraph(TEA, "<stdin>", line=1)
    assert paragraph.source == "<stdin>:1"


def test_a_folder_is_no_document(tmp_path):
    with pytest.raises(DataError, match="cannot be read, found Is a directory"):
        read_document(tmp_path)


def test_reading_text_imports_no_library(write):
    code = (
        "import sys\nfrom zhaiju.corpus.documents import *\n"
        "[read_document(path) for path in find_documents(sys.argv[1:], warn=print)]\n"
        "wanted = 'pypdf docx lxml selectolax markdown_it torch transformers opencc numpy'.split()\n"
        "print(*(name for name in wanted if name in sys.modules))"
    )
    path = write("a.txt", HANDS)
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
