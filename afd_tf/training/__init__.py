"""From a method to a run directory."""
