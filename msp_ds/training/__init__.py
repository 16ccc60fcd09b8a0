"""Training: from the shards of a curriculum's stages to checkpoints.

Here pairs take their last steps. A run (run.py) trains its stages (stage.py) in order. In each step the loader
(batch_loader.py) reads the clean batch that the order names, the model (pretraining_model.py) corrupts it, encodes it
and scores it with the heads of its tasks, and the loop (loop.py) hands the loss to the engine, reports, validates and
saves. The next stage starts from the last checkpoint with fresh heads.

assembly/ opens and builds a stage. engine/, distributed/, checkpointing/, memory/, monitoring/ and guards/ hold one
mechanism around the loop each. Tasks are not here but in tasks/, shards in data/, and the use of a trained model in
evaluation/.
"""
