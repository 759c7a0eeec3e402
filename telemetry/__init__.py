"""Logs, traces and shared metrics of every process.

It imports nothing of the project, so that the engine, the API and the workers can all use it.
"""
