"""Tables over scenes, methods and seeds (``table``), the claims they judge (``claims``), and stored tables compared
with new ones (``stored``)."""
