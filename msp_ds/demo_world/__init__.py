"""The demo world: procedural scenes with region features, captions, phrases and questions, from nothing but a seed.

Its files have the layouts of real data (LXMERT's TSV, COCO, Visual Genome, VQA, GQA, NLVR2), so `preparation/` reads
them as it reads any raw files; nothing here knows of shards or training. A scene is drawn (scenes.py, layout.py), a
simulated detector looks at it (detector.py, appearance.py), `language/` describes it and `writing/` writes the files.
nearest.py, the exact nearest-neighbour search, serves the hard negatives of the world and of real data alike.
"""

from msp_ds.demo_world.make import WORLD_VERSION, WorldReport, make_world

__all__ = ["WORLD_VERSION", "WorldReport", "make_world"]
