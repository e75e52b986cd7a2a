"""Other people's checkpoints: files read without running them, architectures told by the tensors."""
