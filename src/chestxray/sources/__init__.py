"""Where radiographs and labels come from, turned into common rows."""
