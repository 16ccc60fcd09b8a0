"""The on-disk format of a shard set: tars of msgpack records, an index and tables (shards/README.md describes them).

- `set_layout`: names, fields and the record of an image. `shards`: opens a set and reads single images.
- `index_checks`, `requirements`: checks of a set in itself, and for a task. `questions`: the table of a benchmark.
- `set_tables`: the tar and tables of a shard while it is written.
- `text`, `vocabulary`: word pieces and label names. `image_ids`, `path_patterns`: names of images and of files.
- `region_checks`, `faults`: checks of region features from any source, and rows that are skipped.

The format does not depend on any source: `preparation` reads the sources and writes sets in this format. A pair is
here at rest: its texts and its image are in one record, its word pieces and its key in the pair table.
"""
