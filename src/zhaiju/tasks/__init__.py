"""The tasks. A fifth one is a file beside these and an entry here."""

from typing import Any

from zhaiju.tasks.base import Task
from zhaiju.tasks.intent import IntentTask
from zhaiju.tasks.read import ReadTask
from zhaiju.tasks.select import SelectTask
from zhaiju.tasks.slots import SlotsTask

TASKS: dict[str, type[SelectTask] | type[ReadTask] | type[IntentTask] | type[SlotsTask]] = {
    "select": SelectTask,
    "read": ReadTask,
    "intent": IntentTask,
    "slots": SlotsTask,
}

__all__ = ["TASKS", "IntentTask", "ReadTask", "SelectTask", "SlotsTask", "make_task"]


def make_task(name: str, **settings: Any) -> Task[Any, Any]:
    """A task with those of the settings that are its own; None leaves a setting at its default."""
    own = TASKS[name].__dataclass_fields__
    chosen = {key: value for key, value in settings.items() if key in own and value is not None}
    return TASKS[name](**chosen)
