"""Phantoms: synthetic frontal chest radiographs whose truth is known exactly.

    population ─► measures ─► anatomy ─► skeleton, vessels, signs, devices ─► exposure ─► tree

`population` says who is radiographed and what they have, `measures` how large the chest is,
`anatomy` draws the organs as path lengths, the others add to them, `exposure` turns attenuation
into grey values, and `tree` writes it all as NIH's own folder. The pictures teach and test a
pipeline; they prove nothing about patients.
"""
