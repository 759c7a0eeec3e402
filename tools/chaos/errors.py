"""Errors of the faults' game."""


class ChaosError(Exception):
    """The market cannot run, or did not keep a promise; the message says which."""
