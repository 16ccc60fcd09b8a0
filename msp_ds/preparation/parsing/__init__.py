"""Parsers for files larger than memory: JSON item by item, compressed bytes, and a table of texts on the disk."""
