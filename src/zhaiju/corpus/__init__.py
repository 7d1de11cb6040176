"""Paragraphs found by what they share with a question."""
