"""The network over the ranks: the mesh, and the parallelisms applied in one visible order."""
