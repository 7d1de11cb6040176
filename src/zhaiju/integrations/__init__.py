"""Zhaiju inside other libraries, one file each; a file imports its library, and nothing else imports the file."""
