"""From the index of a shard set to clean batches, in an order that depends only on seed, epoch and pair keys.

- `order`: the pairs of each global batch. `block_plan`: the tars of each block of a set that is fetched while training.
- `reader`: reads a batch of pairs. `image_files`, `batch_buffers`: the reading of features into reused memory.
- `subset`: a set with fewer pairs.

A pair passes through here once per epoch: its position in the order gives its step and rank, and the reader returns
its text and image unchanged. Random corruption is in `tasks`, threads that read ahead are in `training`.
"""
