"""Readings for others: over HTTP with a viewer, and in the PACS."""
