"""The model: embeddings, layers, backbone and heads, and `positions`, which limits work to states that are read.

It knows batches and states but no tasks: msp_ds/tasks says which positions are targets and what the losses are.
weights/ converts the weights of other projects.
"""
