"""The generation loop, the decoding state of a whole model, graphs and samplers."""
