"""The tasks. A fifth one is a file beside these and an entry here."""

from zhaiju.tasks.read import ReadTask
from zhaiju.tasks.select import SelectTask

TASKS: dict[str, type[SelectTask] | type[ReadTask]] = {"select": SelectTask, "read": ReadTask}

__all__ = ["TASKS", "ReadTask", "SelectTask"]
