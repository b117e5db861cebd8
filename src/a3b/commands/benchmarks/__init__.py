"""`a3b bench`: speed of a model, of a start, of the sparse shape beside dense ones."""
