"""Converters of other projects' region features into the npz files that `msp-ds shard` reads."""
