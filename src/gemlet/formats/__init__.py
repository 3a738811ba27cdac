"""Model files: untrusted bytes in, checked values out."""
