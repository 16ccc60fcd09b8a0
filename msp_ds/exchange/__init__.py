"""Exchange of weights with other projects: import, export, the model card and the tokenizer files of an export.

The names and layouts of other projects' tensors are in `msp_ds.model.weights`.
"""
