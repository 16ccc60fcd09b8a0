"""DeepSpeed, configured and wrapped: corrupted batch -> losses -> gradients -> update.

Which steps a run makes and in which order is decided outside, in training/loop.py and training/stage.py.
"""
