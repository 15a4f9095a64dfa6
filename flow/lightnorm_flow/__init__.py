"""LightNorm's tools: the `lightnorm` command, synthesis and reports."""
