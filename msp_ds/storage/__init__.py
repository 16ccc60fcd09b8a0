"""Files of every kind: how this package locks, checks, reads and replaces them, each in one place.

- `locks`: one process at a time writes into a folder or a file.
- `atomic_files`: files and folders that appear whole or not at all.
- `checksums`: crc32 of bytes, sha256 of files.
- `file_kinds`, `small_files`, `array_files`: files from users, refused when they are something else than expected, and
  read without running code, hanging or filling the memory.
- `positioned_reads`: reads at an offset that threads may share.
- `folder_search`: folders that hold a file of a given name.

Nothing here knows what the files mean: the layout of a shard set is in `data/format`, that of a run in `training`.
"""
