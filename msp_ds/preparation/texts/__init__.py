"""The texts of each stage and benchmark: labels, phrases without verbs, captions, questions with answers."""
