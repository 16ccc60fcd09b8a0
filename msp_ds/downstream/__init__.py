"""Benchmarks: one file each with the task that fine-tuning trains, and beside it the official grade as a pure function.

A benchmark is a stage of one task and is trained by the loop of pre-training. What runs an evaluation (reading shards,
batching, reports) is in msp_ds/evaluation.
"""
