"""Shard sets written from a recipe: a plan, tars by several threads, tables and index, then all into place.

A run that was interrupted continues from its finished tars. The format of the files is that of `data/format`.
"""
