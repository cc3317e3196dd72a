"""The method, to be read in this order: relations, batch, blending, encoder, heads, objectives.

`functional` has fast implementations for the encoder and the objectives. `checkpoint` reads and
writes model files, `compat` reads those of older versions, `published_weights` converts those of
the paper's authors.
"""
