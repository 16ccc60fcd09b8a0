"""Readers of region features, TSV and NPZ, row by row. Photographs are not read here."""
