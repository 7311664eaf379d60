"""The report's figures, drawn from finished numbers, nothing else: one module a kind.

`style` holds what they share: colours, type, and how a drawing becomes a part of the page or a
file for print.
"""
