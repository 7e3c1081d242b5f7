"""The network, and Hugging Face folders in and out. Importing the package loads no torch."""
