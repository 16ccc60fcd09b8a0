"""English about scenes: captions, region phrases, questions and statements, each true of the boxes and colours."""
