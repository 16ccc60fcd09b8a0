"""What a run leaves on disk and what is read back: checkpoints, the run folder, weights folders, trained models.

The update is written here and read by the next stage, by evaluation and by export. The gathering of an engine's state
over ranks belongs to training/engine, names of other people's weights to model/weights.
"""
