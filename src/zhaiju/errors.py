"""Every error that zhaiju raises on purpose.

::

    ZhaijuError
    ├── DataError          a file or a row is not what its format promises
    ├── ConfigError        a setting is unknown, of the wrong type or out of range
    ├── CheckpointError    an encoder, checkpoint or run cannot be loaded
    ├── TrainingError      training cannot go on (loss is not a number, nothing to train on)
    └── OutputError        a result cannot be written (disk full, no permission)

The command line turns each into one line on stderr and exit code 2.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any


class ZhaijuError(Exception):
    """Root of the tree above; catch this to catch them all. Its message is one line, whatever names are in it."""

    def __str__(self) -> str:
        return join_lines(super().__str__())


class ConfigError(ZhaijuError):
    """A setting is unknown, of the wrong type or out of range."""


class CheckpointError(ZhaijuError):
    """An encoder, checkpoint or run cannot be loaded."""


class TrainingError(ZhaijuError):
    """Training cannot go on."""


class OutputError(ZhaijuError):
    """A result cannot be written."""


class DataError(ZhaijuError):
    """A file or a row is not what its format promises.

    The message holds, where known, the file, the row's id, the field, what was found and what was expected;
    each is also an attribute.
    """

    def __init__(
        self,
        problem: str,
        *,
        file: str | Path | None = None,
        row: str | None = None,
        field: str | None = None,
        found: object = None,
        expected: str | None = None,
    ) -> None:
        self.problem = problem
        self.file = None if file is None else str(file)
        self.row = row
        self.field = field
        self.found = found
        self.expected = expected
        super().__init__(self._message())

    def _message(self) -> str:
        where = [part for part in (self.file, self.row and f"row {self.row}", self.field) if part]
        text = ": ".join([*where, self.problem])
        if self.found is not None:
            text += f", found {shorten(self.found)}"
        if self.expected is not None:
            text += f", expected {self.expected}"
        return text

    def located(self, *, file: str | Path | None = None, row: str | None = None) -> DataError:
        """The same error with the file and row filled in where they were not known."""
        return type(self)(
            self.problem,
            file=self.file or file,
            row=self.row or row,
            field=self.field,
            found=self.found,
            expected=self.expected,
        )


# What is said where there is no class of errors for it: by torch, by other C++, by the system when it maps a file.
_OUT_OF_MEMORY = (
    "can't allocate memory",
    "bad_alloc",
    "bad allocation",
    "Failed to allocate memory",
    "Cannot allocate",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there was no memory left, here or on a GPU, whichever library raised it."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return not isinstance(error, ZhaijuError) and any(words in str(error) for words in _OUT_OF_MEMORY)


# Packages that come with an extra, by the name that they are imported under.
EXTRAS = (
    dict.fromkeys(("accelerate", "fontTools", "huggingface_hub", "matplotlib", "psutil"), "train")
    | dict.fromkeys(("tomli_w", "torch", "transformers"), "train")
    | dict.fromkeys(("lancedb", "pyarrow"), "index")
    | dict.fromkeys(("fastapi", "httptools", "prometheus_client", "uvicorn"), "serve")
    | dict.fromkeys(("onnx", "onnxscript"), "onnx")
    | dict.fromkeys(("daft", "lance_ray", "ray"), "scale")
    | dict.fromkeys(("haystack", "langchain_core"), "integrations")
    | {"openvino": "openvino"}
)


def not_installed(error: ImportError) -> ConfigError | None:
    """What to say of an import that failed, with what to type; None where no extra has it."""
    name = (error.name or "").partition(".")[0]
    extra = EXTRAS.get(name)
    return None if extra is None else ConfigError(f'{name} is not installed; pip install "zhaiju[{extra}]"')


def library(name: str) -> Any:
    """A package that comes with an extra, imported where it is used.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise (not_installed(error) or error) from None


def join_lines(text: str) -> str:
    """`text` with a space for each line break."""
    return " ".join(text.splitlines())


def shorten(value: object, limit: int = 80) -> str:
    """`value` as it would be typed in Python, on one line of at most `limit` characters."""
    text = value if isinstance(value, _Verbatim) else repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


class _Verbatim(str):
    """A description that `shorten` prints without quotes, such as "513 tokens"."""


def verbatim(text: str) -> str:
    """Mark `text` as a description, so that an error prints it without quotes."""
    return _Verbatim(text)
