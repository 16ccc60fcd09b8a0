"""How much memory and how many operations training takes: predicted from shapes, or measured by trial.

Nothing here trains or changes what is computed.
"""
