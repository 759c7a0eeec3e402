"""Fuzzing of every parser of bytes that others wrote: `make fuzz`, docs/security.md.

A target calls the parser's public entry, and returns for the errors that the parser declares.
"""
