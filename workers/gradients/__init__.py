"""The process that attributes answers by gradients: `python -m workers.gradients`."""
