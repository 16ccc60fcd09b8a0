"""Readers of captions, phrases, questions and image ids, one module a data set. They know layouts, not stages."""
