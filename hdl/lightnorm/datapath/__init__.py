"""The data path, one file per stage: unpack, reduce, buffer, coefficients, apply, pack."""
