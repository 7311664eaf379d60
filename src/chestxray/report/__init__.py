"""Pages and figures from the files of a run. Reads artefacts, computes nothing."""
