"""Same-problem groups: one positive trace, its flawed siblings and their rubric labels."""
