"""Where models are: references, settings, what is on this machine."""
