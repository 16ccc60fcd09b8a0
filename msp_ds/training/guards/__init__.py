"""What protects a stage while it trains: checks of losses and shards, the watchdog, stop requests and their limits.

A guard reports or ends a run; it never changes a loss or a weight.
"""
