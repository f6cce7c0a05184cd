"""How a torch.nn.Module becomes a pure function: what cannot, private copies, layers that need care, the check."""
