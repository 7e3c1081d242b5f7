"""The same training on a laptop, Slurm and Kubernetes: the files that start it."""
