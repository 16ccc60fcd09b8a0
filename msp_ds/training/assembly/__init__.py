"""What one stage opens, checks, builds and writes about itself; training/stage.py puts it together and trains.

The loop is not here (training/loop.py), nor is what belongs to a whole run (training/run.py).
"""
