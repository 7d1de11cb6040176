"""Files made to harm whoever reads them, and a child process with little memory and time that reads them."""

import io
import json
import os
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

INPUTS = ("input_ids", "token_type_ids", "attention_mask")
SPAN_OUTPUTS = ("start_logits", "end_logits")
MEMORY = 3 << 30  # bytes of address space that reading may add to what the libraries take
SECONDS = 120  # of computing, in which the whole of a list of files is refused or read

# Reads each path that stdin names, one a line of JSON, and says on stdout what came of it.
CHILD = """
import json, resource, sys, time
from zhaiju.errors import ZhaijuError
from {module} import {function} as read
{prepare}
pages = int(open("/proc/self/statm").read().split()[0])
most = pages * resource.getpagesize() + {memory}
resource.setrlimit(resource.RLIMIT_AS, (most, most))
for line in sys.stdin:
    path = json.loads(line)
    began = time.process_time()
    try:
        told = f"read: {{' '.join(str(read(path)).split())[:200]}}"
    except ZhaijuError as error:
        told = f"{{type(error).__name__}}: {{error}}"
    print(json.dumps([told, time.process_time() - began]), flush=True)
"""


def read_all(paths, *, module, function, prepare="", memory=MEMORY, seconds=SECONDS):
    """What came of reading each path in one child: a list of texts, each one line.

    The child is killed by the system past its computing time, and refused memory past its limit.
    """
    import resource

    code = CHILD.format(module=module, function=function, prepare=prepare, memory=memory)
    child = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        input="".join(f"{json.dumps(str(path))}\n" for path in paths),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds)),
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    told = [json.loads(line) for line in child.stdout.splitlines()]
    names = [Path(path).name for path in paths]
    assert len(told) == len(paths), f"{names[len(told)]}: exit code {child.returncode}, {child.stderr[-2000:]}"
    assert child.returncode == 0, child.stderr[-2000:]
    for name, (text, _) in zip(names, told, strict=True):
        assert "\n" not in text, (name, text)
    return [text for text, _ in told]


def zeros(size):
    """That many NULs as deflate packs them, a thousandth of the size."""
    packer = zlib.compressobj(9)
    chunk = bytes(1 << 20)
    return b"".join(packer.compress(chunk) for _ in range(size >> 20)) + packer.flush()


# --- PDF

OPERATORS = b"BT /F1 9 Tf 1 0 0 1 9 9 Tm (abc) Tj ET\n"
FONT = b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>"
WIDE_FONT = (
    b"<</Type/Font/Subtype/Type0/BaseFont/X/Encoding/Identity-H/ToUnicode 6 0 R"
    b"/DescendantFonts[<</Type/Font/Subtype/CIDFontType2/BaseFont/X/W[0 4294967290 500]>>]>>"
)
WIDE_MAP = (
    b"begincmap 1 begincodespacerange <0000> <FFFFFFFF> endcodespacerange "
    b"1 beginbfrange <00000000> <FFFFFFF0> <0041> endbfrange endcmap"
)
CATALOG = b"<</Type/Catalog/Pages 2 0 R>>"


def pdf(objects):
    """A PDF of these objects, the first of which is its root."""
    content, places = b"%PDF-1.7\n", []
    for number, value in enumerate(objects, 1):
        places.append(len(content))
        content += b"%d 0 obj\n%s\nendobj\n" % (number, value)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    count = len(objects) + 1
    return b"%sxref\n0 %d\n0000000000 65535 f \n%strailer\n<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n" % (
        content,
        count,
        table,
        count,
        len(content),
    )


def stream(data, about=b""):
    return b"<<%s/Length %d>>\nstream\n%s\nendstream" % (about, len(data), data)


def packed(data, about=b""):
    return stream(zlib.compress(data, 9), about + b"/Filter/FlateDecode")


def pages(content, *more, count=1, font=FONT, resources=b"<</Font<</F1 4 0 R>>>>"):
    """A PDF whose every page is the same object."""
    tree = b"<</Type/Pages/Count %d/Kids[%s]>>" % (count, b"3 0 R " * count)
    page = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 600 800]/Contents 5 0 R/Resources %s>>" % resources
    return pdf([CATALOG, tree, page, font, content, *more])


def form(content, inside):
    return stream(content, b"/Type/XObject/Subtype/Form/BBox[0 0 9 9]/Resources" + inside)


def forms_in_forms(depth):
    """Each draws the next one twice: 2 ** depth in all."""
    inner = [form(b"/X Do /X Do ", b"<</XObject<</X %d 0 R>>>>" % (7 + level)) for level in range(depth)]
    inner.append(form(OPERATORS, b"<</Font<</F1 4 0 R>>>>"))
    return pages(stream(b"/X Do"), *inner, resources=b"<</XObject<</X 6 0 R>>>>")


def tree_of_trees(depth):
    """Each node of the page tree holds the next one twice: 2 ** depth pages."""
    nodes = [b"<</Type/Pages/Count 1/Kids[%d 0 R %d 0 R]>>" % (level + 3, level + 3) for level in range(depth)]
    return pdf([CATALOG, *nodes, b"<</Type/Page/MediaBox[0 0 9 9]>>"])


# --- DOCX

NAMESPACE = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'


def docx(chunks, *, name="word/document.xml", more=()):
    """A DOCX whose document.xml are these chunks of bytes, with more files in it as (name, content)."""
    from docx import Document

    empty, content = io.BytesIO(), io.BytesIO()
    Document().save(empty)
    with zipfile.ZipFile(empty) as source, zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as made:
        for entry in source.namelist():
            if entry != name:
                made.writestr(entry, source.read(entry))
        for entry, content_of in more:
            made.writestr(entry, content_of)
        about = zipfile.ZipInfo(name)
        about.compress_type = zipfile.ZIP_DEFLATED
        with made.open(about, "w", force_zip64=True) as member:
            for chunk in chunks:
                member.write(chunk)
    return content.getvalue()


def understated(archive, size):
    """A zip file whose directory says that its last file has `size` bytes unpacked."""
    place = archive.rindex(b"PK\x01\x02") + 24
    return archive[:place] + struct.pack("<I", size) + archive[place + 4 :]


def body(*chunks, before=""):
    """The chunks of a document.xml with this in its body."""
    yield f"{before}<w:document {NAMESPACE}><w:body>".encode()
    yield from chunks
    yield b"</w:body></w:document>"


def numbered(count, text, pad=b"<!--%016x-->"):
    """`text` that often, in chunks, with something between that cannot be packed much."""
    for first in range(0, count, 10_000):
        yield b"".join(text + pad % (index * 0x9E3779B97F4A7C15 % (1 << 64)) for index in range(first, first + 10_000))


def entities(levels):
    """An XML document type in which `&e<levels>;` is ten times the one before, 10 ** levels characters."""
    tens = "".join(f'<!ENTITY e{level} "{f"&e{level - 1};" * 10}">' for level in range(1, levels + 1))
    return f'<?xml version="1.0"?><!DOCTYPE d [<!ENTITY e0 "a">{tens}]>'


# --- safetensors


def safetensors(header, data=b"", *, length=None):
    """A file with that header, whatever it says, and with that length of it, whatever it has."""
    told = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(told) if length is None else length) + told + data


# --- graphs


def graph(place, offset, length):
    """An ONNX graph of two logits, one weight of which is said to lie in another file."""
    from onnx import TensorProto, helper

    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[length // 4], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", place), ("offset", offset), ("length", length)):
        entry = weight.external_data.add()
        entry.key, entry.value = key, str(value)
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "t"]) for name in INPUTS]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", "t"]) for name in SPAN_OUTPUTS]
    nodes = [
        helper.make_node("ReduceMean", ["w"], ["m"], keepdims=0),
        helper.make_node("Cast", ["input_ids"], ["f"], to=TensorProto.FLOAT),
        *(helper.make_node("Add", ["f", "m"], [name]) for name in SPAN_OUTPUTS),
    ]
    made = helper.make_graph(nodes, "g", inputs, outputs, initializer=[weight])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
