"""Conversion of weights between our names and those of other projects, by one table of names for each format."""
