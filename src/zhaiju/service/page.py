"""The page at `/`: a few files out of memory, under a policy that lets them load nothing from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files as resources
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

if TYPE_CHECKING:
    from fastapi import FastAPI, Request

FOLDER = "/static/"
TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "json": "application/json",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-cache",  # kept, and asked for whether it is still the same
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
# Questions of the project's own sample, by their ids, to try at a click.
SAMPLES = {
    "zh-Hant": ("sample-3-1", "sample-1-1", "sample-33-2", "sample-26-2", "sample-24-2"),
    "zh-Hans": ("sample-39-2", "sample-50-2", "sample-30-1", "sample-56-2", "sample-46-2"),
}


@dataclass(frozen=True, slots=True)
class File:
    """A file of the page.

    Attributes:
        content: Its bytes.
        kind: Its media type.
        tag: Its ETag, which changes with its content.
    """

    content: bytes
    kind: str
    tag: str


def is_page(path: str) -> bool:
    """Whether an address is the page's, which holds nothing of anyone's and is given to anyone."""
    return path == "/" or path.startswith(FOLDER)


@cache
def page_files() -> Mapping[str, File]:
    """The files by address."""
    found = {}
    for entry in (resources("zhaiju.service") / "static").iterdir():
        suffix = entry.name.rpartition(".")[2]
        if suffix in TYPES:
            path = "/" if entry.name == "index.html" else FOLDER + entry.name
            found[path] = _file(entry.read_bytes(), suffix)
    found[f"{FOLDER}samples.json"] = _file(json.dumps(_samples(), ensure_ascii=False).encode(), "json")
    return found


def _file(content: bytes, suffix: str) -> File:
    return File(content, TYPES[suffix], f'"{sha256(content).hexdigest()[:32]}"')


def _samples() -> dict[str, list[dict[str, Any]]]:
    """Questions with their paragraphs, for each script."""
    folder = resources("zhaiju.starter") / "sample"
    paragraphs = json.loads((folder / "context.json").read_text("utf-8"))
    rows = {row["id"]: row for row in json.loads((folder / "held_out.json").read_text("utf-8"))}
    return {
        script: [
            {
                "question": rows[name]["question"],
                "contexts": [paragraphs[place] for place in rows[name]["paragraphs"]],
            }
            for name in names
        ]
        for script, names in SAMPLES.items()
    }


def add_page(app: FastAPI) -> None:
    """Serve the page."""

    def serving(file: File) -> Any:
        async def serve(request: Request) -> Response:
            headers = {**HEADERS, "ETag": file.tag}
            if file.tag in request.headers.get("if-none-match", ""):
                return Response(status_code=304, headers=headers)
            return Response(file.content, headers=headers, media_type=file.kind)

        return serve

    for path, file in page_files().items():
        app.add_route(path, serving(file), methods=["GET"], include_in_schema=False)
