"""Benchmarks, one program each; docs/ quotes their numbers. The modules that they share are in common/."""
