"""Readers of documents: refused in one line, or paragraphs that can be quoted."""

from __future__ import annotations

from functools import partial

from fuzz.mutate import of_bytes, of_json
from fuzz.target import Refusing, Target, hold
from zhaiju.corpus.documents import Limits, parse_document
from zhaiju.data.examples import check_text
from zhaiju.errors import DataError

LIMITS = Limits(max_seconds=1, max_paragraph_characters=120, max_pages=20, max_unpacked_bytes=1 << 22)


def check_document(data: bytes, name: str) -> None:
    """Paragraphs are usable texts, not too long, in the document's order, with the place that its format has."""
    with Refusing(DataError):
        paragraphs = parse_document(data, name, limits=LIMITS)
        for paragraph in paragraphs:
            check_text(paragraph.text, "text")
            hold("\0" not in paragraph.text or name.endswith("json"), "text", paragraph)
            hold(len(paragraph.text) <= LIMITS.max_paragraph_characters, "no longer", paragraph)
            hold(paragraph.document == name and len(paragraph.source.splitlines()) == 1, "a place", paragraph)
            if paragraph.heading is not None:
                check_text(paragraph.heading, "heading")
        lines = [paragraph.line for paragraph in paragraphs if paragraph.line is not None]
        if name.endswith("txt"):
            hold(len(lines) == len(paragraphs) and lines == sorted(lines), "lines in order", lines)
            _hold_text(data, "".join(paragraph.text for paragraph in paragraphs))
        if name.endswith("md"):
            hold(
                all(1 <= line <= 1 + data.count(b"\n") + data.count(b"\r") for line in lines) or not _plain(data),
                "lines",
            )
        if name.endswith("pdf"):
            hold(
                all(paragraph.page is not None and paragraph.page >= 1 for paragraph in paragraphs), "pages", paragraphs
            )


def _plain(data: bytes) -> bool:
    return not data.startswith((b"\xff\xfe", b"\xfe\xff"))


def _hold_text(data: bytes, text: str) -> None:
    """All of a text file is in its paragraphs but its white space."""
    try:
        whole = data.decode("utf-16" if not _plain(data) else "utf-8-sig")
    except UnicodeDecodeError:
        return  # another encoding, which was guessed
    hold("".join(whole.split()) == "".join(text.split()), "all of the text", whole, text)


_MARKDOWN = (
    "# ", "\n\n", "- ", "1. ", "> ", "```\n", "|", "|-|-|\n", "[", "](", ")", "![", "**", "`", "<b>", "<!--", "-->",
    "---\n", "\\", "&amp;", "    ", "<br>", "\t", "\n===\n", "~~", "<div hidden>", "[a]: b\n",
)  # fmt: skip
_HTML = (
    "<p>", "</p>", "<br>", "<table>", "<tr><td>", "</table>", "<ul><li>", "</ul>", "<pre>", "<h1>", "</h1>",
    "<script>", "<style>", "<!--", "-->", "<svg>", "<math>", "<template>", "<select><option>", "&nbsp;", "&#0;",
    "&#xd800;", "<a hidden>", ' style="display:none"', "<![CDATA[", "<?xml encoding='gbk'?>", "<meta charset=big5>",
    "<", ">", "'", '"', "\0", "<frameset>", "<plaintext>", "<textarea>", "<noscript>", "</body>", "<caption>",
)  # fmt: skip
_TEXT = (
    "\n", "\n\n", "\r\n", "　", " ", "。", "\u2028", "\x0c", "\x1c", "\x85", "\0", b"\xa4\xa4", b"\xd6\xd0",
    b"\xff\xfe", b"\xef\xbb\xbf",
)  # fmt: skip

TARGETS = (
    Target("text", "usable paragraphs, or refused", partial(check_document, name="a.txt"), of_bytes(*_TEXT), 120_000),
    Target(
        "markdown", "usable paragraphs, or refused", partial(check_document, name="a.md"), of_bytes(*_MARKDOWN), 100_000
    ),
    Target("html", "usable paragraphs, or refused", partial(check_document, name="a.html"), of_bytes(*_HTML), 100_000),
    Target("lists", "usable paragraphs, or refused", partial(check_document, name="a.json"), of_json(), 100_000),
)
