"""The tasks: each a file beside this one and an entry here."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import getattr_static
from pathlib import Path
from typing import Any

from zhaiju.data.labelled import kind_of, names_of
from zhaiju.errors import ConfigError
from zhaiju.tasks.base import Task
from zhaiju.tasks.intent import IntentTask
from zhaiju.tasks.read import ReadTask
from zhaiju.tasks.select import SelectTask
from zhaiju.tasks.slots import SlotsTask

TASKS: dict[str, type[Task[Any, Any]]] = {task.name: task for task in (SelectTask, ReadTask, IntentTask, SlotsTask)}

__all__ = ["TASKS", "IntentTask", "ReadTask", "SelectTask", "SlotsTask", "known", "make_task", "task_of"]


def known(name: str) -> type[Task[Any, Any]]:
    """The task of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in TASKS:
        raise ConfigError(f"task {name!r} is not one of {', '.join(TASKS)}")
    return TASKS[name]


def make_task(name: str, **settings: Any) -> Task[Any, Any]:
    """A task with those of the settings that are its own; None leaves a setting at its default."""
    own = TASKS[name].__dataclass_fields__  # type: ignore[attr-defined]  # a task is a dataclass
    chosen = {key: value for key, value in settings.items() if key in own and value is not None}
    return TASKS[name](**chosen)


def task_of(gold: Path, values: Mapping[str, str | int]) -> type[Task[Any, Any]]:
    """Which task a labelled file and predictions for it look like."""
    names = names_of(gold)
    for task in TASKS.values():  # one that reads rows of its fields, unless they are questions with spans for answers
        if getattr_static(task, "read") is vars(Task)["read"] and set(task.fields) <= names and "answers" not in names:
            return task
    if (kind := kind_of(gold)) is not None:
        return TASKS[kind]
    return SelectTask if values and all(isinstance(value, int) for value in values.values()) else ReadTask
