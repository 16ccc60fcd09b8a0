"""Evaluation of a trained model: what runs a benchmark at full size, caches its scores, and grades a prediction file.

`grading` grades a file of any benchmark, alone or against another file; the official metrics are pure functions in
`msp_ds.downstream` (vqa_grades, gqa_grades, nlvr2_grades, retrieval_grades). `answer_evaluation` and
`retrieval_evaluation` predict first, the latter with `ranking`, `score_cache` and `score_matrix`. `matching` scores
free texts against images. `blind_baseline` grades VQA answers given without the image.
Nothing here trains; the commands are in `msp_ds.cli`.
"""
