"""How every process of an installation is watched: logs, traces, and what it counts.

It knows nothing of what it watches, so that the engine, the API and the workers can all stand on it.
"""
