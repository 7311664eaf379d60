"""The classifier, its class maps, and how it is saved."""
