"""`a3b bench`: the speed of a model, of a start, and of the sparse shape against dense ones."""
