"""The decoder over a tree of segments, its projections, rubric heads and checkpoints."""
