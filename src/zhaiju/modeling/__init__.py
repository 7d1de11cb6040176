"""Encoders with a task's head, and the directories they live in."""
