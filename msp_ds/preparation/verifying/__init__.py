"""Finished shard sets checked byte by byte, inspected, and copied from remote storage for that."""
