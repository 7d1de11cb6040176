"""Rows of a Parquet file, a batch of them in memory at a time."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zhaiju.errors import DataError, verbatim

SUFFIXES = {".parquet"}
BATCH_ROWS = 1024


def rows(path: Path, *, start: int = 0) -> Iterator[dict[str, Any]]:
    """The rows of a file as objects; a column without a value in a row is not there.

    Args:
        path: The file.
        start: Rows to pass over; row groups that lie before them are not read.

    Raises:
        DataError: it is no Parquet file, or cannot be read.
    """
    pq = importlib.import_module("pyarrow.parquet")
    try:
        with pq.ParquetFile(path) as file:
            groups: list[int] = []
            for group in range(file.num_row_groups):
                if not groups and start >= (size := file.metadata.row_group(group).num_rows):
                    start -= size
                else:
                    groups.append(group)
            for batch in file.iter_batches(BATCH_ROWS, row_groups=groups) if groups else ():
                passed = min(start, batch.num_rows)
                start -= passed
                for row in batch.slice(passed).to_pylist():
                    yield {name: value for name, value in row.items() if value is not None}
    except FileNotFoundError:
        raise DataError("no such file", file=path) from None
    except (OSError, ValueError) as error:  # Arrow's own errors are of these two, but for what it lacks
        raise DataError("cannot be read as Parquet", file=path, found=verbatim(str(error).splitlines()[0])) from None
    except NotImplementedError as error:
        raise DataError("holds what cannot be read here", file=path, found=verbatim(str(error))) from None
