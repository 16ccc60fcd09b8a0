"""One file for each kind of detector; `find` tells the kind by the content of a file or folder and opens it.

transformers and onnxruntime, the extra `[regions]`, are imported in their detector's file alone.
"""
