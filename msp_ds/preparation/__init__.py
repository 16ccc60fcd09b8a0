"""Preparation: raw files become tar shards with an index. This happens once, before any training.

It is the first half of the life of a pair. Texts and image ids are read from the files of a recipe (`recipe.py`,
`sources/` on top of `parsing/`), region features from TSV or NPZ (`region_features/`). `texts/` turns captions,
phrases, labels and questions into the texts of a stage; `exclusion.py` and `overlap.py` keep evaluation images out of
training; `hard_negatives/` adds the replacement images of ITM_HS; `writing/` writes the shards; `verifying/` checks and
inspects finished sets. The on-disk format itself lives in `data/format`, the reading during training in `data/loading`.
"""
