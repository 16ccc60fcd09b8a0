"""The processes of a run: how they are started, find each other, agree on one run and exchange values.

Gradients and the partitions of ZeRO belong to training/engine.
"""
