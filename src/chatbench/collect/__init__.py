"""Collects a study: the pages on which people answer and chat, what is kept of it, and the files that come out."""
