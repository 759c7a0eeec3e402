"""The disk: space that the rest of the installation needs, durable files, locks, and folders that can be
written again.
"""
