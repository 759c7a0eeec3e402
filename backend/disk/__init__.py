"""The disk: space that the rest of the installation needs, and folders that can be written again."""
