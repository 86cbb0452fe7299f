"""The page of an effects report: its words, its drawings, and how they are put together."""
