"""Lists of hard negatives: computed from region features or imported, stored as a file or in a shard set."""
