"""The gate: decides whether a radiograph is refused, read with warnings, or read without any.

    header of a DICOM file  ─┐
    decoded pixels          ─┼─► checks ─► notices: refusals and warnings
    image and its features  ─┘

`notices` holds every message, `checks` decides when each is given. What the gate cannot detect: a
mirrored image (heart on the right), another body part that looks like a chest, and a radiograph of
which a little is missing. Images of a prepared dataset are not judged, since an evaluation must not
lose images.
"""
