"""What the hardware's arithmetic does to accuracy: `lightnorm study`. Needs the extra `study`.

data, ising       what is classified
networks, train   what is trained, many seeds side by side
variants          what stands in the place of a batch normalization; range_norm, authors: those that are no layer of
                  this package
plan, runs        what the study runs, and what of it is done
statistics, summary, tables, plots   from runs to words and pictures
failures          what goes wrong in a single layer
"""
