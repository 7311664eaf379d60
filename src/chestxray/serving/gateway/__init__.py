"""A node in the PACS: radiographs in by DICOM, results back into the study, nothing lost."""
