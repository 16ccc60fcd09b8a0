"""The data of a training run: shard sets on disk, the order of their pairs, and clean batches read from them.

- `format`: the on-disk format of a shard set, its words and labels, and the checks of both.
- `loading`: which pairs are in which batch, and reading them.
- `remote`: shard sets at addresses, fetched before or while a run trains.
- `progress`: how long work reports its progress.

In the life of a pair this is the middle: `preparation` has written it into a tar and an index, `loading.order` decides
in which step it is used, and `loading.reader` reads it into a clean batch, which `tasks` corrupts and `model` scores.
"""
