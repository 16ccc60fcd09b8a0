"""What a run shows: TensorBoard, metrics.jsonl, the terminal, sample predictions on held-out pairs and throughput.

The losses and metrics themselves come from the tasks.
"""
