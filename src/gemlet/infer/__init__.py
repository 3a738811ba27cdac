"""Requests in, answers out: sampling, scheduling, the engine thread, and the public Model."""
