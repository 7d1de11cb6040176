"""Zhaiju (摘句) answers questions by quoting: it selects the paragraph, then reads the exact span in it.

    >>> import zhaiju
    >>> reader = zhaiju.load("runs/read")                                          # doctest: +SKIP
    >>> reader.read("What is it called?", "It is called Zhaiju.").answer           # doctest: +SKIP
    'Zhaiju'

Importing this costs next to nothing; a checkpoint that is no exported graph needs the extra `train`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zhaiju.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    OutputError,
    TrainingError,
    ZhaijuError,
    not_installed,
)

if TYPE_CHECKING:
    from zhaiju.api import Model


def __getattr__(name: str) -> str:
    if name == "__version__":  # looked up when it is asked for: that reads files
        from importlib.metadata import version

        return version("zhaiju")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load(
    what: str,
    *,
    selector: str | None = None,
    task: str | None = None,
    backend: str = "auto",
    precision: str = "fp32",
) -> Model:
    """Load a model to select, read and answer with.

    Args:
        what: A run, a checkpoint directory or a hub id.
        selector: The same, for the paragraph selector of a reader; None: words alone rank the paragraphs.
        task: Its task, where `what` does not say it itself; a foreign checkpoint reads.
        backend: "torch", "onnx" or "openvino"; "auto": PyTorch, or what is fastest for an exported graph.
        precision: "fp32", "bf16", or "int8" where a quantised graph was exported.

    Raises:
        CheckpointError: it cannot be loaded.
        ConfigError: it needs an extra that is not installed.
    """
    from zhaiju.api import Model

    try:
        return Model.load(what, selector=selector, task=task, backend=backend, precision=precision)
    except ImportError as error:
        raise (not_installed(error) or error) from None


__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "OutputError",
    "TrainingError",
    "ZhaijuError",
    "__version__",
    "load",
]
