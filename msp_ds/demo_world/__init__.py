"""A procedural world of scenes, written as the raw files that real data come in."""

from msp_ds.demo_world.make import WORLD_VERSION, WorldReport, make_world

__all__ = ["WORLD_VERSION", "WorldReport", "make_world"]
