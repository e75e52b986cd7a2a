"""Z-Image: a transformer of latent pictures and captions in one stream, and the language model that reads captions."""
