"""Tables over scenes, methods and seeds, and the claims that they judge.

``cells`` collects what was measured and what was published, ``render`` writes it, ``claims`` compares two rows query by
query, ``build`` is the stage.
"""
