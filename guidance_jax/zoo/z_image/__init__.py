"""Z-Image: a transformer that reads latent pictures and captions as one sequence; a language model encodes captions."""
