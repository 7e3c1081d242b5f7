"""Readers: one small file per format, found by name; plug-ins register under the group `wingspan.readers`."""
