"""The gate: what should not be read, or not be trusted, is said before anything is made of it.

    header ─► headers ─┐
    pixels ─► picture ─┼─► notices ─► a refusal, or warnings beside the reading
    model  ─► likeness ┘

`headers` judges what a DICOM file says of itself, `picture` the decoded pixels, `likeness` whether
the film is like those that the model was trained on. `codes` lists every notice.

What it cannot tell: whether a film is mirrored (heart on the right), whether a radiograph of
another body part that looks like a chest is one, and whether a little of the film is missing. A
prepared dataset is not judged: what its preparation let in is what is to be measured, and an
evaluation must not lose images on the way.
"""
