"""Shard sets at https://, s3:// and gs:// addresses, copied to this machine before or while a run trains.

- `remote_files`: files at an address, fetched in pieces, with retries and checked by sha256.
- `blob_cache`: the local cache, whose files are named by their sha256 and evicted when they are not in use.
- `staging`: brings whole sets into the cache before training.
- `blocks`: fetches the tars of sets that are larger than the cache, block by block, while the run trains.

A set in the cache is read like any local set: `data/format` opens it, `data/loading` reads it.
"""
