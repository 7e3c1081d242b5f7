"""The command line: parsing and printing only; the work is in the rooms. One file per stage that has verbs."""
