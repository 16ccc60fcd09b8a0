"""Modules that several benchmarks share: clocks and costs, made-up data, peer models and the replayed training loop."""
