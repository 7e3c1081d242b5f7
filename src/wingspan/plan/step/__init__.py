"""One optimizer step by arithmetic: the network's counts, time, exchanges and memory of a layout."""
