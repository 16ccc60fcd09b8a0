"""Photographs -> region features: the files of regions that `msp-ds shard` reads, and the regions of one picture.

- `pictures`: files of any common format as upright RGB.
- `detectors/`: one file for each kind of detector, all behind the protocol in `detector`.
- `selection`, `pooling`: which boxes are kept, and their features from a map, for all detectors.
- `region_job`, `region_parts`: the command, resumable, in several processes.

Nothing here knows texts, tasks or shards.
"""
