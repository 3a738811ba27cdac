"""Recorded traffic: requests and answers kept in files, and run again against another model or endpoint."""
