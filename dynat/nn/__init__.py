"""How a network is run: modes, mixed precision, folding, compilation, CUDA graphs, losses per example."""
