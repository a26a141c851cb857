"""Collect a study: the pages on which people answer and chat, the database, and the exported files."""
