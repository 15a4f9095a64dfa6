"""Combinational building blocks: shifts that keep what they drop, leading ones, and the rounding decision."""
