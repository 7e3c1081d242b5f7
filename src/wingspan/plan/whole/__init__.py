"""Beyond the step: the whole run with its failures, energy and money, the model's quality, serving."""
