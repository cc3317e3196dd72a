"""THE METHOD, to be read in this order: relations, batch, blending, encoder, heads, objectives.

`checkpoint` keeps a model in one file, `published_weights` reads those of the paper's authors.
"""
