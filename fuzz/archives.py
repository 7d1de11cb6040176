"""Readers of formats that libraries take apart: PDF, DOCX, Parquet. A thousandth of the speed of the others."""

from __future__ import annotations

import io
import struct
import warnings
import zipfile
from collections.abc import Sequence
from functools import partial
from random import Random

from fuzz.documents import check_document
from fuzz.mutate import change, of_bytes, pick
from fuzz.target import Refusing, Target, file_of
from zhaiju.data import parquet
from zhaiju.data.formats import ReadLog, read_qa
from zhaiju.data.labelled import read_intents, read_slots
from zhaiju.errors import DataError

_WORDS = (
    "<w:p>", "</w:p>", "<w:r><w:t>", "</w:t></w:r>", "<w:tbl>", "<w:tr>", "<w:tc>", "</w:tbl>", "<w:br/>", "<w:sdt>",
    ' w:val="', "&amp;", "&#0;", "&e;", "<!DOCTYPE d [<!ENTITY e 'x'>]>", "<?xml encoding='utf-16'?>", "<w:del>",
    "<w:pStyle w:val='Heading1'/>", "<w:txbxContent>", "<", ">", '"', "xmlns:w='x'", "\0",
)  # fmt: skip
_MARKS = tuple(word.encode() for word in _WORDS)


def make_docx(random: Random, seeds: Sequence[bytes]) -> bytes:
    """A DOCX with a part of it changed, packed again; or with changed bytes."""
    data = pick(random, seeds)
    if random.random() < 0.2:
        return change(
            random, bytearray(data), seeds, (b"PK\x01\x02", b"PK\x05\x06", b"PK\x03\x04", b"\xff\xff\xff\xff")
        )
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
    except Exception:  # a kept input need be no archive
        return change(random, bytearray(data), seeds, _MARKS)
    names = list(parts)
    for _ in range(1 + int(random.random() * 2)):
        name = pick(random, names) if random.random() < 0.4 else "word/document.xml"
        if name in parts:
            texts = [parts[name]]
            parts[name] = change(random, bytearray(parts[name]), texts, _MARKS)
        if random.random() < 0.05:
            parts.pop(pick(random, names), None)
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in parts.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return made.getvalue()


_PDF = (
    "obj", "endobj", "stream\n", "endstream", "xref", "trailer", "<<", ">>", "[", "]", "/Kids", "/Count 9",
    "/Parent 2 0 R", "/Length 0", "/Filter/FlateDecode", "/Filter/LZWDecode",
    "/Filter[/ASCII85Decode/ASCIIHexDecode]", "/Prev 9", "/Type/ObjStm", "/ToUnicode 6 0 R", "/Encoding/Identity-H",
    "1 0 R", "2 0 R", "3 0 R", "5 0 R", "(", ")", "<", ">", "Tj", "TJ", "Tm", "Td", "BT", "ET", "Do", "q", "Q",
    "/Encrypt<</Filter/Standard/V 1/R 2/O(a)/U(b)/P -4>>", "beginbfrange", "endbfrange", "%", "\\", "/Rotate 90",
    "-1",
)  # fmt: skip


def make_parquet(random: Random, seeds: Sequence[bytes]) -> bytes:
    """A Parquet file with changed bytes, most often in its footer."""
    data = bytearray(pick(random, seeds))
    if random.random() < 0.5 and len(data) > 12:
        length = min(struct.unpack("<I", data[-8:-4])[0], len(data) - 12)
        footer = data[-8 - length : -8]
        footer = bytearray(
            change(random, footer, [bytes(footer)], (b"\0", b"\x15\x00", b"\x19", b"\xff\xff\xff\xff\x0f"))
        )
        return bytes(data[: -8 - length]) + bytes(footer) + struct.pack("<I", len(footer)) + b"PAR1"
    return change(random, data, seeds, (b"PAR1", b"\0", b"\x15", b"\xff\xff\xff\x7f"))


def check_parquet(data: bytes) -> None:
    """Rows are read, or refused in one line; so are examples of them."""
    path = file_of("p.parquet", data)
    with Refusing(DataError):
        for _ in parquet.rows(path, start=len(data) % 3):
            pass
    for read in (partial(read_qa, log=ReadLog(skip_faulty=True)), read_intents, read_slots):
        with Refusing(DataError):
            for _ in read(path):  # type: ignore[operator]
                pass


def check_pdf(data: bytes) -> None:
    """A PDF; what warns warns nobody."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_document(data, "a.pdf")


TARGETS = (
    Target("docx", "usable paragraphs, or refused", partial(check_document, name="a.docx"), make_docx, 10_000),
    Target("pdf", "usable paragraphs, or refused", check_pdf, of_bytes(*_PDF), 15_000),
    Target("parquet", "rows, or refused", check_parquet, make_parquet, 15_000),
)
