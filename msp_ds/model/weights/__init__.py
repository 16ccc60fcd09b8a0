"""Weights under other people's names: a table of names for each foreign form, and what turns one into the other."""
